"""COCO's average precision with a bootstrap, by hotcoco, which is bit-equal to pycocotools; AP after repairs."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import hotcoco
import numpy as np
from hotcoco.metrics import average_precision as interpolated_average_precision

from .inputs import Detections, Objects
from .matching import ERROR_KINDS, ErrorKinds

COCO_PARAMS = hotcoco.Params("bbox")
RECALLS = np.array(COCO_PARAMS.rec_thrs)
"""`(R,)`: 0, 0.01, … 1, where COCO reads precision."""
DETECTIONS_AT_ONCE = 5_000
"""Classes are evaluated in groups of about this number of detections, which bounds memory."""
NO_DETECTIONS = Detections(np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
NO_OBJECTS = Objects(np.zeros(0, np.int32), np.zeros((0, 4)), np.zeros(0), np.zeros(0, bool))


class AveragePrecision(NamedTuple):
    """COCO's numbers as fractions, -1 where there is nothing to find. K classes, A areas, M limits of detections."""

    stats: np.ndarray  # (12,) as of COCOeval.summarize: AP, AP50, AP75, AP by size, AR by limit, AR by size
    precision: np.ndarray  # (T, R, K, A, M) at IoU thresholds and recalls
    recall: np.ndarray  # (T, K, A, M)
    scores: np.ndarray  # (T, R, K, A, M), the score at which each precision is reached


class ImageTable:
    """Detections and objects of all images as columns; the images' order decides between equal scores."""

    def __init__(
        self, images: Sequence[tuple[Detections, Objects]], num_classes: int, max_detections: Sequence[int]
    ) -> None:
        self.num_images, self.num_classes, self.max_detections = len(images), num_classes, list(max_detections)
        found, truth = [one for one, _ in images], [one for _, one in images]
        self.found = Detections(*map(np.concatenate, zip(NO_DETECTIONS, *found, strict=True)))
        self.truth = Objects(*map(np.concatenate, zip(NO_OBJECTS, *truth, strict=True)))
        self.image_of_detection, self.image_of_object = (
            np.repeat(np.arange(len(images)), [len(image.labels) for image in side]) for side in (found, truth)
        )

    def evaluate(self, classes: range, with_detections: bool = True) -> hotcoco.COCOeval:
        """Matches the detections of some classes; without them all objects are missed."""
        of_object = (self.truth.labels >= classes.start) & (self.truth.labels < classes.stop)
        of_class = (self.found.labels >= classes.start) & (self.found.labels < classes.stop) & with_detections
        objects = Objects(*(column[of_object] for column in self.truth))
        found = Detections(*(column[of_class] for column in self.found))
        truth = hotcoco.COCO.from_arrays(
            [{"id": index} for index in range(self.num_images)],
            [{"id": label, "name": str(label)} for label in classes],
            self.image_of_object[of_object],
            objects.labels,
            objects.boxes,
            area=objects.area,
            iscrowd=objects.crowd,
        )
        rows = np.column_stack((self.image_of_detection[of_class], found.boxes, found.scores, found.labels))
        evaluation = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
        evaluation.params.max_dets = self.max_detections
        evaluation.evaluate()
        return evaluation

    def average_precision(self) -> AveragePrecision:
        """COCO's numbers, equal to those of pycocotools to the last bit."""
        thresholds, areas = len(COCO_PARAMS.iou_thrs), len(COCO_PARAMS.area_rng)  # areas: all, small, medium, large
        shape = (self.num_classes, areas, len(self.max_detections))
        precision, scores = np.full((2, thresholds, len(RECALLS), *shape), -1.0)
        recall = np.full((thresholds, *shape), -1.0)
        group = np.cumsum(np.bincount(self.found.labels, minlength=self.num_classes)) // DETECTIONS_AT_ONCE
        for index in np.unique(group) if self.num_images else ():
            classes = np.flatnonzero(group == index)  # consecutive
            labels = slice(int(classes[0]), int(classes[-1]) + 1)
            evaluation = self.evaluate(range(labels.start, labels.stop))
            evaluation.accumulate()
            precision[:, :, labels], scores[:, :, labels] = evaluation.eval["precision"], evaluation.eval["scores"]
            recall[:, labels] = evaluation.eval["recall"]
        most = precision[..., -1]  # (T, R, K, A)
        precisions = [most[..., 0], most[0, ..., 0], most[5, ..., 0], *(most[..., area] for area in (1, 2, 3))]
        recalls = [*(recall[..., 0, limit] for limit in range(3)), *(recall[..., area, -1] for area in (1, 2, 3))]
        stats = np.array([mean_of_present(values) for values in precisions + recalls])
        return AveragePrecision(stats, precision, recall, scores)


def mean_of_present(values: np.ndarray) -> float:
    """The mean of what is not -1, as COCOeval averages; -1 where nothing is there."""
    return float(np.mean(values[values > -1])) if (values > -1).any() else -1.0


def bootstrap_differences(first: ImageTable | None, second: ImageTable) -> list[tuple[float, float, float, float]]:
    """For each of COCO's twelve numbers in percent: second minus first, its 95 % interval's two ends, and a p-value.

    Images, the same in both tables, are drawn with replacement. Classes are not evaluated in groups here. The interval
    is that of a normal distribution: a bootstrap's quantiles are biased for AP, its spread is not. The p-value is the
    probability of a difference at least as large, of either sign, between two detectors that are equally good. `first`
    None is a detector that finds nothing, which gives the numbers themselves and their intervals.
    """
    classes = range(second.num_classes)
    baseline = second.evaluate(classes, with_detections=False) if first is None else first.evaluate(classes)
    compared = hotcoco.compare(baseline, second.evaluate(classes), n_bootstrap=200)  # so that errors are known to 5 %
    rows = []
    for key in compared["metric_keys"]:
        value, error = 100 * compared["deltas"][key], 100 * compared["ci"][key]["std_err"]
        p = math.erfc(abs(value) / error / math.sqrt(2)) if error else float(value == 0)
        rows.append((value, value - 1.96 * error, value + 1.96 * error, p))
    return rows


def gain_of_repairs(found: np.ndarray, truth: np.ndarray, num_classes: int) -> dict[ErrorKinds, float]:
    """How much AP50 would rise, as a fraction, were all errors of one kind repaired (TIDE's ΔAP).

    Wrong classes and places become right where the object had not been found. Errors of both, duplicates and background
    vanish; missed objects are no longer looked for. Absent classes are left out, as in COCO's mean.
    """
    present = np.unique(truth["label"][~truth["crowd"]])

    def mean_ap50(found: np.ndarray, truth: np.ndarray) -> float:
        values = np.zeros(num_classes)
        for label, (of_class, objects) in enumerate(by_class(found, truth, num_classes)):
            right, ignored = of_class["error"] == ErrorKinds.CORRECT, of_class["error"] == ErrorKinds.IGNORED
            count = int(np.count_nonzero(~objects["crowd"]))  # a class of which every object was missed has AP 0
            values[label] = interpolated_average_precision(of_class["score"], right, count, ignored)
        return float(values[present].mean())

    if not len(present):
        return dict.fromkeys(ERROR_KINDS, 0.0)
    base, gains = mean_ap50(found, truth), {}
    for kind in ERROR_KINDS:
        wrong, repaired = found["error"] == kind, found.copy()
        repaired["label"][wrong], repaired["error"][wrong] = found["repaired_label"][wrong], ErrorKinds.CORRECT
        repaired = repaired[~wrong | (found["repaired_label"] >= 0)]
        objects = truth[~truth["missed"]] if kind == ErrorKinds.MISSED else truth
        gains[kind] = max(0.0, mean_ap50(repaired, objects) - base)
    return gains


def by_class(found: np.ndarray, truth: np.ndarray, num_classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Detections and objects of each class, in their order."""
    parts = []
    for rows in (found, truth):
        order = np.argsort(rows["label"], kind="stable")
        parts.append(np.split(order, np.searchsorted(rows["label"][order], np.arange(1, num_classes))))
    return ((found[of_found], truth[of_truth]) for of_found, of_truth in zip(*parts, strict=True))
