"""One image's detections and objects to what average precision and the error analysis need of them: a few bytes each.

COCOeval keeps every box and match of a set as Python objects. Here an image is matched by pycocotools as soon as it
comes, and 34 bytes a detection remain.
"""

import contextlib
import io

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from .errors import ErrorKinds, find_errors
from .inputs import Detections, Objects

COCO_PARAMS = Params("bbox")
IOU_THRESHOLDS = COCO_PARAMS.iouThrs
"""`(T,)`: 0.5, 0.55, … 0.95."""
AREAS = len(COCO_PARAMS.areaRng)
"""all, small, medium, large"""
MATCH_BITS = AREAS * len(IOU_THRESHOLDS)
MATCH_BYTES = -(-MATCH_BITS // 8)

NO_OBJECT, IGNORED = -1, -2

DETECTION = np.dtype(
    [
        ("score", "f8"),
        ("label", "i4"),
        ("rank", "u2"),  # among the image's detections of that label, 0 the highest
        ("matched", "u1", MATCH_BYTES),  # bits by area range, then IoU threshold
        ("ignored", "u1", MATCH_BYTES),
        ("voc", "i1"),  # 1 right, 0 wrong, IGNORED
        ("error", "u1"),  # an ErrorKinds
        ("repaired_label", "i4"),  # of the object that the error's repair would find, or NO_OBJECT
        ("confused_with", "i4"),  # label of the object it lies on, whatever its own; or NO_OBJECT, or IGNORED
    ]
)
"""What remains of a detection; ordered by label, then score."""

OBJECT = np.dtype([("label", "i4"), ("ignored", "?", AREAS), ("missed", "?")])
"""What remains of an annotated object; `ignored` by area range, first for all areas: crowd regions."""


def match_image(detections: Detections, objects: Objects, most: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches an image with COCOeval.

    Args:
        most: highest number of detections of a class that count, COCOeval's last `maxDets`.

    Returns:
        `(D,)` of `DETECTION`, `(G,)` of `OBJECT` in the order of `objects`, and `(D,)` indices of the kept detections.
    """
    labels = np.union1d(detections.labels, objects.labels)
    evaluated = _evaluate(detections, objects, labels, most)
    by_label = [evaluated[index : index + AREAS] for index in range(0, len(evaluated), AREAS)]
    order = np.concatenate([np.asarray(areas[0]["dtIds"], dtype=np.int64) - 1 for areas in by_label] or [[]])
    order = order.astype(np.int64)
    kept = detections[order]

    found = np.zeros(len(kept), dtype=DETECTION)
    found["score"], found["label"] = kept.scores, kept.labels
    found["rank"] = np.concatenate([np.arange(len(areas[0]["dtIds"])) for areas in by_label] or [[]])
    for name in ("matched", "ignored"):
        key = {"matched": "dtMatches", "ignored": "dtIgnore"}[name]
        rows = [np.stack([area[key] for area in areas]) for areas in by_label]  # (A, T, D of the label) each
        bits = np.concatenate(rows, axis=2) if rows else np.zeros((AREAS, len(IOU_THRESHOLDS), 0))
        found[name] = np.packbits(bits.reshape(MATCH_BITS, -1) > 0, axis=0).T

    truth = np.zeros(len(objects.labels), dtype=OBJECT)
    truth["label"] = objects.labels
    for areas in by_label:
        for area, result in enumerate(areas):
            truth["ignored"][np.asarray(result["gtIds"], dtype=np.int64) - 1, area] = result["gtIgnore"]

    matches = [areas[0]["dtMatches"][0] for areas in by_label]  # at IoU 0.5, for all areas
    matched_object = np.concatenate(matches or [[]]).astype(np.int64) - 1  # (D,), -1 for none
    _analyse(found, truth, kept, objects, matched_object, order)
    return found, truth, order


def _evaluate(detections: Detections, objects: Objects, labels: np.ndarray, most: int) -> list[dict]:
    """COCOeval's results of one image, for each label and area range. Ids are indices + 1, since 0 means no match."""
    columns = zip(objects.labels.tolist(), objects.boxes.tolist(), objects.area, objects.crowd, strict=True)
    truth = [
        {"id": index, "image_id": 0, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for index, (label, box, area, crowd) in enumerate(columns, start=1)
    ]
    columns = zip(detections.labels.tolist(), detections.boxes.tolist(), detections.scores.tolist(), strict=True)
    found = [
        {"id": i, "image_id": 0, "category_id": label, "bbox": box, "area": box[2] * box[3], "score": score}
        for i, (label, box, score) in enumerate(columns, start=1)
    ]
    if not len(labels):
        return []
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth), _coco(found), "bbox")
        evaluation.params.imgIds = [0]
        evaluation.params.catIds = labels.tolist()
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
    return evaluation.evalImgs


def _coco(annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": [{"id": 0}], "annotations": annotations, "categories": []}
    coco.createIndex()
    return coco


def _analyse(
    found: np.ndarray,
    truth: np.ndarray,
    detections: Detections,
    objects: Objects,
    matched_object: np.ndarray,
    order: np.ndarray,
) -> None:
    """Fills in what is not COCOeval's: VOC's verdict, the kind of error, and the confusion."""
    single = ~objects.crowd
    iou = pairwise_iou(detections.boxes, objects.boxes[single])  # (D, G without crowds)
    position = np.cumsum(single) - 1
    is_ignored = (found["ignored"][:, 0] & 0b1000_0000) > 0  # the first bit: all areas, IoU 0.5
    matched = np.where((matched_object >= 0) & ~is_ignored, position[matched_object] if len(position) else -1, -1)
    by_score = np.lexsort((order, -detections.scores))

    errors = find_errors(detections.labels, objects.labels[single], iou, matched, is_ignored, by_score)
    found["error"], found["repaired_label"] = errors.kinds, errors.repaired_labels
    truth["missed"][single] = errors.missed
    found["confused_with"] = _confuse(iou, objects.labels[single], by_score)
    # on a crowd region of its class a detection is no error
    found["confused_with"][(found["error"] == ErrorKinds.IGNORED) & (found["confused_with"] == NO_OBJECT)] = IGNORED
    crowd_overlap = pairwise_iou(detections.boxes, objects.boxes[~single], crowd=True)
    crowd_overlap = crowd_overlap * (detections.labels[:, None] == objects.labels[~single])
    found["voc"] = _voc(iou * (detections.labels[:, None] == objects.labels[single]), by_score)
    found["voc"][(found["voc"] == NO_OBJECT) & (crowd_overlap >= 0.5).any(1)] = IGNORED
    found["voc"][found["voc"] == NO_OBJECT] = 0


def pairwise_iou(boxes: np.ndarray, others: np.ndarray, crowd: bool = False) -> np.ndarray:
    """`(D, G)` IoU of x y w h boxes; with `crowd` the intersection over the first box's area.

    >>> pairwise_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 2, 2]])).round(3)
    array([[0.333]])
    """
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    return mask.iou(boxes, others, [int(crowd)] * len(others))


def _confuse(iou: np.ndarray, labels: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)` label of the free object that overlaps most, at IoU >= 0.5; the highest scores choose first.

    What a detection takes does not depend on lower scores, so that any score threshold can be set afterwards.
    """
    confused = np.full(len(iou), NO_OBJECT)
    free = iou.copy()
    for index in by_score if len(labels) else ():
        best = free[index].argmax()
        if free[index, best] >= 0.5:
            confused[index] = labels[best]
            free[:, best] = -1
    return confused


def _voc(iou_of_class: np.ndarray, by_score: np.ndarray) -> np.ndarray:
    """`(D,)`: 1 for the first detection of an object, 0 for a later one, NO_OBJECT without overlap >= 0.5."""
    verdict = np.full(len(iou_of_class), NO_OBJECT)
    taken = np.zeros(iou_of_class.shape[1], dtype=bool)
    for index in by_score if len(taken) else ():
        best = iou_of_class[index].argmax()
        if iou_of_class[index, best] >= 0.5:
            verdict[index] = not taken[best]
            taken[best] = True
    return verdict
