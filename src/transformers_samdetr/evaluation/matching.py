"""What each detection of an image is: right, ignored, or one of TIDE's six kinds of error; VOC's verdict; confusion.

The kinds of error are those of TIDE (Bolya et al., ECCV 2020, section 2.2). A detection that COCO's matching leaves
without an object at IoU 0.5 is, by the first condition that holds, an error of

1. localisation: an object of its class overlaps with 0.1 <= IoU <= 0.5;
2. classification: an object of another class overlaps with IoU >= 0.5;
3. duplicate: an object of its class with IoU >= 0.5 was found by a detection of a higher score;
4. background: no object overlaps with more than IoU 0.1;
5. both, class and place: what remains.

An object is missed if no detection found it, and none would after repairing errors of kinds 1 and 2.
"""

from enum import IntEnum

import numpy as np
from hotcoco.primitives import bbox_iou

from .inputs import Detections, Objects

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
NO_OBJECT, IGNORED = -1, -2


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

DETECTION = np.dtype(
    [
        ("score", "f8"),
        ("label", "i4"),
        ("error", "u1"),  # an ErrorKinds
        ("voc", "i1"),  # 1 right, 0 wrong, IGNORED
        ("repaired_label", "i4"),  # label of the object that the error's repair would find, or NO_OBJECT
        ("confused_with", "i4"),  # label of the object that it covers, of any class; or NO_OBJECT, or IGNORED
    ]
)
"""A classified detection."""

OBJECT = np.dtype([("label", "i4"), ("crowd", "?"), ("missed", "?")])
"""A classified object."""


def classify_image(detections: Detections, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """`(D,)` of `DETECTION` and `(G,)` of `OBJECT`, in the order of the arguments."""
    found = np.zeros(len(detections.labels), dtype=DETECTION)
    found["score"], found["label"] = detections.scores, detections.labels
    truth = np.zeros(len(objects.labels), dtype=OBJECT)
    truth["label"], truth["crowd"] = objects.labels, objects.crowd
    single = ~objects.crowd
    labels = objects.labels[single]  # (G',): without crowd regions
    overlaps = bbox_iou(detections.boxes, objects.boxes, objects.crowd)  # (D, G); over the detection's area on crowds
    of_class = detections.labels[:, None] == objects.labels
    on_crowd = ((overlaps * of_class)[:, ~single] >= FOREGROUND_IOU).any(1)
    iou, same = overlaps[:, single], of_class[:, single]  # (D, G') each
    by_score = np.argsort(-detections.scores, kind="stable")

    matched = _assign((iou * same)[:, ::-1], by_score)  # reversed: COCO takes the last of equal overlaps
    matched = np.where(matched >= 0, len(labels) - 1 - matched, NO_OBJECT)
    on_crowd &= matched < 0
    errors = _find_errors(iou, same, matched, by_score)
    errors[on_crowd] = ErrorKinds.IGNORED
    found["error"] = errors
    found["repaired_label"], truth["missed"][single] = _repair(iou, same, labels, matched, errors, by_score)

    confused = _assign(iou, by_score)
    found["confused_with"] = np.where(confused >= 0, labels[confused] if len(labels) else 0, NO_OBJECT)
    found["confused_with"][on_crowd & (confused < 0)] = IGNORED

    found["voc"] = _voc_verdicts(iou * same, by_score)
    crowd_only = (iou * same).max(1, initial=0) < FOREGROUND_IOU
    found["voc"][crowd_only & ((overlaps * of_class)[:, ~single] >= FOREGROUND_IOU).any(1)] = IGNORED
    return found, truth


def _assign(iou: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)` index of the free object of the highest IoU >= 0.5, or NO_OBJECT.

    The highest scores choose first. What a detection takes does not depend on lower scores, so that any score threshold
    can be set afterwards.

    Args:
        iou: `(D, G)`.
        by_score: `(D,)` indices, the highest score first.
    """
    assigned = np.full(len(iou), NO_OBJECT)
    candidates = iou.max(1, initial=0) >= FOREGROUND_IOU
    free = iou.copy()
    for index in by_score[candidates[by_score]]:
        best = free[index].argmax()
        if free[index, best] >= FOREGROUND_IOU:
            assigned[index] = best
            free[:, best] = -1
    return assigned


def _find_errors(iou: np.ndarray, same: np.ndarray, matched: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)` of `ErrorKinds`; crowd regions are not considered."""
    is_found = np.zeros(iou.shape[1], dtype=bool)
    is_found[matched[matched >= 0]] = True
    of_class, of_others = iou * same, iou * ~same
    overlap = of_class.max(1, initial=0)
    conditions = (
        matched >= 0,
        (overlap >= BACKGROUND_IOU) & (overlap <= FOREGROUND_IOU),
        of_others.max(1, initial=0) >= FOREGROUND_IOU,
        (of_class * is_found).max(1, initial=0) >= FOREGROUND_IOU,
        iou.max(1, initial=0) <= BACKGROUND_IOU,
    )
    kinds = (
        ErrorKinds.CORRECT,
        ErrorKinds.LOCALISATION,
        ErrorKinds.CLASSIFICATION,
        ErrorKinds.DUPLICATE,
        ErrorKinds.BACKGROUND,
    )
    return np.select(conditions, kinds, default=ErrorKinds.BOTH).astype(np.uint8)


def _repair(
    iou: np.ndarray,
    same: np.ndarray,
    labels: np.ndarray,
    matched: np.ndarray,
    errors: np.ndarray,
    by_score: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """`(D,)` labels after repairing classes and places, NO_OBJECT where the repair drops it; `(G',)` missed objects.

    A repair gives a detection the class, or the place, of its object. Where several would find the same object, the one
    of the highest score does, and the others are dropped, as are those whose object was found already.
    """
    taken = np.zeros(len(labels), dtype=bool)
    taken[matched[matched >= 0]] = True
    repaired = np.full(len(errors), NO_OBJECT, dtype=np.int64)
    is_place = errors == ErrorKinds.LOCALISATION
    repairable = is_place | (errors == ErrorKinds.CLASSIFICATION)
    for index in by_score[repairable[by_score]]:
        target = (iou[index] * (same[index] if is_place[index] else ~same[index])).argmax()
        if not taken[target]:
            taken[target] = True
            repaired[index] = labels[target]
    return repaired, ~taken


def _voc_verdicts(iou_of_class: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)`: 1 for the first detection of the object that it overlaps most, at IoU >= 0.5, 0 for others."""
    verdict = np.zeros(len(iou_of_class), dtype=np.int8)
    candidates = by_score[(iou_of_class.max(1, initial=0) >= FOREGROUND_IOU)[by_score]]
    if len(candidates):
        best = iou_of_class[candidates].argmax(1)
        verdict[candidates[np.unique(best, return_index=True)[1]]] = 1
    return verdict
