"""Why a detection is wrong: the six kinds of error of TIDE (Bolya et al., ECCV 2020, section 2.2).

A detection that COCO's matching leaves without an object at IoU 0.5 is, by the first that holds, an error of

1. localisation: an object of its class overlaps with 0.1 <= IoU <= 0.5;
2. classification: an object of another class overlaps with IoU >= 0.5;
3. duplicate: an object of its class with IoU >= 0.5 was found by a detection of a higher score;
4. background: no object overlaps with more than IoU 0.1;
5. both, class and place: what remains.

An object is missed if no detection found it and none of the errors 1 and 2, repaired, would find it.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1


class ErrorKinds(IntEnum):
    """What a detection is, or for MISSED an object."""

    CORRECT = 0
    CLASSIFICATION = 1
    LOCALISATION = 2
    BOTH = 3
    DUPLICATE = 4
    BACKGROUND = 5
    MISSED = 6
    IGNORED = 7


ERROR_KINDS = tuple(ErrorKinds)[1:7]


@dataclass(frozen=True)
class ImageErrors:
    """`kinds` `(D,)` of `ErrorKinds`; `repaired_labels` `(D,)`, -1 where the repair drops it; `missed` `(G,)`."""

    kinds: np.ndarray
    repaired_labels: np.ndarray
    missed: np.ndarray


def find_errors(
    labels: np.ndarray,
    object_labels: np.ndarray,
    iou: np.ndarray,
    matched: np.ndarray,
    ignored: np.ndarray,
    by_score: np.ndarray,
) -> ImageErrors:
    """Errors of one image.

    A repair gives a detection the class, or the place, of its object. Where several would find the same object, the one
    with the highest score does, and the others are dropped, as are those whose object was found already.

    Args:
        labels: `(D,)` of the detections.
        object_labels: `(G,)` of the objects, without crowd regions.
        iou: `(D, G)`.
        matched: `(D,)` index of the object that COCO's matching gives at IoU 0.5, -1 for none.
        ignored: `(D,)` True where COCO counts the detection neither right nor wrong.
        by_score: `(D,)` indices, the highest score first.
    """
    kinds = np.full(len(labels), ErrorKinds.BACKGROUND, dtype=np.uint8)
    repaired = np.full(len(labels), -1, dtype=np.int64)
    found = np.zeros(len(object_labels), dtype=bool)
    found[matched[matched >= 0]] = True
    repairable = np.zeros(len(object_labels), dtype=bool)
    if len(object_labels) and len(labels):
        same = labels[:, None] == object_labels  # (D, G)
        of_class, of_others = iou * same, iou * ~same
        overlap, other_overlap = of_class.max(1), of_others.max(1)
        conditions = (
            (overlap >= BACKGROUND_IOU) & (overlap <= FOREGROUND_IOU),
            other_overlap >= FOREGROUND_IOU,
            (of_class * found).max(1) >= FOREGROUND_IOU,
            iou.max(1) <= BACKGROUND_IOU,
        )
        order = (ErrorKinds.LOCALISATION, ErrorKinds.CLASSIFICATION, ErrorKinds.DUPLICATE, ErrorKinds.BACKGROUND)
        kinds = np.select(conditions, order, default=ErrorKinds.BOTH).astype(np.uint8)
        kinds[matched >= 0] = ErrorKinds.CORRECT
        targets = {ErrorKinds.LOCALISATION: of_class.argmax(1), ErrorKinds.CLASSIFICATION: of_others.argmax(1)}
        kinds[ignored] = ErrorKinds.IGNORED
        for index in by_score:
            target = targets[kinds[index]][index] if kinds[index] in targets else None
            if target is not None and not found[target] and not repairable[target]:
                repairable[target] = True
                repaired[index] = object_labels[target]
    kinds[ignored] = ErrorKinds.IGNORED
    return ImageErrors(kinds, repaired, ~found & ~repairable)
