"""Average precision of COCO and VOC, with confidence intervals; hotcoco, which is bit-equal to pycocotools, matches."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import hotcoco
import numpy as np
from hotcoco.metrics import average_precision as interpolated_average_precision

from .inputs import Detections, Objects
from .matching import ERROR_KINDS, IGNORED, ErrorKinds

COCO_PARAMS = hotcoco.Params("bbox")
IOU_THRESHOLDS = np.array(COCO_PARAMS.iou_thrs)
"""`(T,)`: 0.5, 0.55, … 0.95."""
RECALLS = np.array(COCO_PARAMS.rec_thrs)
"""`(R,)`: 0, 0.01, … 1, where COCO reads precision."""
AREAS = len(COCO_PARAMS.area_rng)
"""all, small, medium, large"""
DETECTIONS_AT_ONCE = 5_000
"""Classes are evaluated in groups of about this number of detections, which bounds memory."""
RESAMPLINGS = 200
"""Bootstrap samples: the standard error is then known to 5 %."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's numbers as fractions, -1 where there is nothing to find. K classes, A areas, M limits of detections.

    Attributes:
        stats: `(12,)`, those of `COCOeval.summarize`.
        precision: `(T, R, K, A, M)` at IoU thresholds and recalls.
        recall: `(T, K, A, M)`.
        scores: `(T, R, K, A, M)`, the score at which each precision is reached.
    """

    stats: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


class ImageTable:
    """Detections and objects of all images as columns, images in the order of their ids.

    Args:
        images: in the order of their ids, which decides between equal scores.
        num_classes: K.
        max_detections: three rising limits of the detections of a class in an image, COCOeval's `maxDets`.
    """

    def __init__(
        self, images: Sequence[tuple[Detections, Objects]], num_classes: int, max_detections: Sequence[int]
    ) -> None:
        self.num_images, self.num_classes, self.max_detections = len(images), num_classes, list(max_detections)
        found, truth = [one for one, _ in images], [one for _, one in images]
        self.image_of_detection = _image_indices(found)
        self.labels = _joined([one.labels for one in found], (0,), np.int32)
        self.corners = _joined([one.corners for one in found], (0, 4))
        self.scores = _joined([one.scores for one in found], (0,))
        self.image_of_object = _image_indices(truth)
        self.object_labels = _joined([one.labels for one in truth], (0,), np.int32)
        self.boxes = _joined([one.boxes for one in truth], (0, 4))
        self.area = _joined([one.area for one in truth], (0,))
        self.crowd = _joined([one.crowd for one in truth], (0,), bool)

    def evaluate(self, classes: range, with_detections: bool = True) -> hotcoco.COCOeval:
        """Matches the detections of some classes; without them all objects are missed."""
        of_object = (self.object_labels >= classes.start) & (self.object_labels < classes.stop)
        of_class = (self.labels >= classes.start) & (self.labels < classes.stop) & with_detections
        corners = self.corners[of_class].astype(np.float64)
        sides = corners[:, 2:] - corners[:, :2]
        images, scores, labels = (column[of_class] for column in (self.image_of_detection, self.scores, self.labels))
        truth = hotcoco.COCO.from_arrays(
            [{"id": index} for index in range(self.num_images)],
            [{"id": label, "name": str(label)} for label in classes],
            self.image_of_object[of_object],
            self.object_labels[of_object],
            self.boxes[of_object],
            area=self.area[of_object],
            iscrowd=self.crowd[of_object],
        )
        found = truth.load_res(np.column_stack((images, corners[:, :2], sides, scores, labels)))
        evaluation = hotcoco.COCOeval(truth, found, "bbox")
        evaluation.params.max_dets = self.max_detections
        evaluation.evaluate()
        return evaluation

    def class_groups(self) -> Iterator[range]:
        """Consecutive classes that together have about `DETECTIONS_AT_ONCE` detections."""
        group = np.cumsum(np.bincount(self.labels, minlength=self.num_classes)) // DETECTIONS_AT_ONCE
        for index in np.unique(group):
            classes = np.flatnonzero(group == index)
            yield range(int(classes[0]), int(classes[-1]) + 1)

    def average_precision(self) -> AveragePrecision:
        """COCO's numbers, equal to those of pycocotools to the last bit."""
        shape = (len(IOU_THRESHOLDS), len(RECALLS), self.num_classes, AREAS, len(self.max_detections))
        precision, scores = np.full(shape, -1.0), np.full(shape, -1.0)
        recall = np.full((shape[0], *shape[2:]), -1.0)
        for classes in self.class_groups() if self.num_images else ():
            evaluation = self.evaluate(classes)
            evaluation.accumulate()
            result, labels = evaluation.eval, slice(classes.start, classes.stop)
            precision[:, :, labels], scores[:, :, labels] = result["precision"], result["scores"]
            recall[:, labels] = result["recall"]
        return AveragePrecision(_summary(precision, recall), precision, recall, scores)


def _joined(parts: list[np.ndarray], empty: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty, dtype)


def _image_indices(images: Sequence[Detections | Objects]) -> np.ndarray:
    return np.repeat(np.arange(len(images)), [len(image.labels) for image in images])


def _summary(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """`(12,)`: AP, AP50, AP75, AP by size, AR by limit, AR by size."""
    most = precision[..., -1]  # (T, R, K, A)
    precisions = [most[..., 0], most[0, ..., 0], most[5, ..., 0], *(most[..., area] for area in (1, 2, 3))]
    recalls = [*(recall[..., 0, limit] for limit in range(3)), *(recall[..., area, -1] for area in (1, 2, 3))]
    return np.array([mean_of_present(values) for values in precisions + recalls])


def mean_of_present(values: np.ndarray) -> float:
    """The mean of what is not -1, as COCOeval averages; -1 where nothing is there."""
    return float(np.mean(values[values > -1])) if (values > -1).any() else -1.0


def bootstrap_differences(first: ImageTable | None, second: ImageTable) -> tuple[np.ndarray, np.ndarray]:
    """`(12,)` differences of COCO's numbers, second minus first, and their standard errors, as fractions.

    Images are drawn with replacement, the same for both tables. Classes are not evaluated in groups here.

    Args:
        first: of the same images and objects; None for a detector that finds nothing, which gives the numbers
            themselves and their standard errors.
        second: of the detector in question.
    """
    classes = range(second.num_classes)
    baseline = second.evaluate(classes, with_detections=False) if first is None else first.evaluate(classes)
    compared = hotcoco.compare(baseline, second.evaluate(classes), n_bootstrap=RESAMPLINGS)
    keys = compared["metric_keys"]
    errors = [compared["ci"][key]["std_err"] for key in keys]
    return np.array([compared["deltas"][key] for key in keys]), np.array(errors)


def normal_interval(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of a normal distribution. A bootstrap's quantiles are biased for AP, its spread is not."""
    return value - 1.96 * error, value + 1.96 * error


def p_value(difference: float, error: float) -> float:
    """Probability of a difference at least as large, of either sign, between two detectors that are equally good.

    >>> round(p_value(1.96, 1.0), 3), p_value(0.0, 0.0)
    (0.05, 1.0)
    """
    if error == 0:
        return float(difference == 0)
    return math.erfc(abs(difference) / error / math.sqrt(2))


def voc_average_precision(scores: np.ndarray, verdicts: np.ndarray, num_objects: int) -> float:
    """VOC's AP since 2010: the whole area below the precision that never rises with recall.

    Args:
        scores: `(N,)`.
        verdicts: `(N,)`, 1 right, 0 wrong; others are left out.
        num_objects: without crowd regions.

    >>> voc_average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), num_objects=2)
    0.8333333333333333
    """
    if num_objects == 0:
        return -1.0
    counted = verdicts != IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    right = verdicts[counted][order] == 1
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / num_objects)  # recall grows by 1 / num_objects at each right one


def gain_of_repairs(found: np.ndarray, truth: np.ndarray, num_classes: int) -> dict[ErrorKinds, float]:
    """How much AP50 would rise, as a fraction, were all errors of one kind repaired (TIDE's ΔAP).

    Wrong classes and places become right where the object had not been found. Errors of both, duplicates and background
    vanish; missed objects are no longer looked for. Absent classes are left out, as in COCO's mean.

    Args:
        found: `(N,)` of `DETECTION`.
        truth: of `OBJECT`.
        num_classes: K.
    """
    present = np.unique(truth["label"][~truth["crowd"]])
    if not len(present):
        return dict.fromkeys(ERROR_KINDS, 0.0)
    base = _mean_ap50(found, truth, present, num_classes)
    gains = {}
    for kind in ERROR_KINDS:
        repaired, objects = found, truth
        if kind == ErrorKinds.MISSED:
            objects = truth[~truth["missed"]]
        else:
            wrong = found["error"] == kind
            keep = ~wrong | (found["repaired_label"] >= 0)
            repaired = found[keep].copy()
            wrong = wrong[keep]
            repaired["label"][wrong] = repaired["repaired_label"][wrong]
            repaired["error"][wrong] = ErrorKinds.CORRECT
        gains[kind] = max(0.0, _mean_ap50(repaired, objects, present, num_classes) - base)
    return gains


def _mean_ap50(found: np.ndarray, truth: np.ndarray, present: np.ndarray, num_classes: int) -> float:
    values = np.zeros(num_classes)
    for label, (of_class, objects) in enumerate(by_class(found, truth, num_classes)):
        right, ignored = of_class["error"] == ErrorKinds.CORRECT, of_class["error"] == ErrorKinds.IGNORED
        count = int(np.count_nonzero(~objects["crowd"]))
        # a class of which every object was missed has no AP: 0, not absent
        values[label] = max(0.0, interpolated_average_precision(of_class["score"], right, count, ignored))
    return float(values[present].mean())


def by_class(found: np.ndarray, truth: np.ndarray, num_classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Detections and objects of each class, in their order."""
    parts = []
    for rows in (found, truth):
        ordered = rows[np.argsort(rows["label"], kind="stable")]
        limits = np.searchsorted(ordered["label"], np.arange(num_classes + 1))
        parts.append([ordered[start:end] for start, end in zip(limits[:-1], limits[1:], strict=True)])
    return list(zip(*parts, strict=True))
