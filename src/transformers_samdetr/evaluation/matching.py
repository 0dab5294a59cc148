"""What each detection of an image is: right, ignored, or an error of a kind by TIDE; VOC's verdict; confusion."""

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
    """`(D,)` of `DETECTION` and `(G,)` of `OBJECT`, in the order of the arguments.

    The kinds of error are those of TIDE (Bolya et al., ECCV 2020, section 2.2). A detection that COCO's matching leaves
    without an object at IoU 0.5 is, by the first condition that holds, an error of

    1. localisation: an object of its class overlaps with 0.1 <= IoU <= 0.5;
    2. classification: an object of another class overlaps with IoU >= 0.5;
    3. duplicate: an object of its class with IoU >= 0.5 was found by a detection of a higher score;
    4. background: no object overlaps with more than IoU 0.1;
    5. both, class and place: what remains.

    Repairing a kind 1 or 2 gives a detection the place, or the class, of its object. Of several that would find the
    same object the one of the highest score does; the others, and those whose object was found already, are dropped.
    An object is missed if no detection found it, and none would after these repairs.
    """
    found, truth = np.zeros(len(detections.labels), DETECTION), np.zeros(len(objects.labels), OBJECT)
    found["score"], found["label"] = detections.scores, detections.labels
    truth["label"], truth["crowd"] = objects.labels, objects.crowd
    single = ~objects.crowd
    labels = objects.labels[single]  # (G',): without crowd regions
    overlaps = bbox_iou(detections.boxes, objects.boxes, objects.crowd)  # (D, G); over the detection's area on crowds
    of_class = detections.labels[:, None] == objects.labels
    on_crowd = ((overlaps * of_class)[:, ~single] >= FOREGROUND_IOU).any(1)
    iou, same = overlaps[:, single], of_class[:, single]  # (D, G') each
    iou_of_class, iou_of_others = iou * same, iou * ~same
    overlap = iou_of_class.max(1, initial=0)
    by_score = np.argsort(-detections.scores, kind="stable")

    matched = _assign(iou_of_class[:, ::-1], by_score)  # reversed: COCO takes the last of equal overlaps
    matched = np.where(matched >= 0, len(labels) - 1 - matched, NO_OBJECT)
    taken = np.zeros(len(labels), dtype=bool)
    taken[matched[matched >= 0]] = True
    conditions = {
        ErrorKinds.CORRECT: matched >= 0,
        ErrorKinds.IGNORED: on_crowd,
        ErrorKinds.LOCALISATION: (overlap >= BACKGROUND_IOU) & (overlap <= FOREGROUND_IOU),
        ErrorKinds.CLASSIFICATION: iou_of_others.max(1, initial=0) >= FOREGROUND_IOU,
        ErrorKinds.DUPLICATE: (iou_of_class * taken).max(1, initial=0) >= FOREGROUND_IOU,
        ErrorKinds.BACKGROUND: iou.max(1, initial=0) <= BACKGROUND_IOU,
    }
    errors = np.select(list(conditions.values()), list(conditions), default=ErrorKinds.BOTH)
    found["error"], found["repaired_label"] = errors, NO_OBJECT

    to_repair = {ErrorKinds.LOCALISATION: iou_of_class, ErrorKinds.CLASSIFICATION: iou_of_others}
    for index in by_score[np.isin(errors[by_score], list(to_repair))]:
        target = to_repair[errors[index]][index].argmax()
        if not taken[target]:
            taken[target] = True
            found["repaired_label"][index] = labels[target]
    truth["missed"][single] = ~taken

    covered = _assign(iou, by_score)
    found["confused_with"] = np.where(covered >= 0, labels[covered] if len(labels) else 0, NO_OBJECT)
    found["confused_with"][(errors == ErrorKinds.IGNORED) & (covered < 0)] = IGNORED

    # VOC: right is the first detection of the object that it overlaps most, whether that was found or not
    candidates = by_score[overlap[by_score] >= FOREGROUND_IOU]
    if len(candidates):
        best = iou_of_class[candidates].argmax(1)
        found["voc"][candidates[np.unique(best, return_index=True)[1]]] = 1
    found["voc"][on_crowd & (overlap < FOREGROUND_IOU)] = IGNORED
    return found, truth


def _assign(iou: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)` index of the free object of the highest IoU (D, G) >= 0.5, or NO_OBJECT; the highest scores choose first.

    What a detection takes does not depend on lower scores, so that any score threshold can be set afterwards.
    """
    assigned = np.full(len(iou), NO_OBJECT)
    free = iou.copy()
    for index in by_score[iou.max(1, initial=0)[by_score] >= FOREGROUND_IOU]:
        best = free[index].argmax()
        if free[index, best] >= FOREGROUND_IOU:
            assigned[index] = best
            free[:, best] = -1
    return assigned
