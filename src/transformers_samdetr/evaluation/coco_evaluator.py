"""COCO average precision of a stream of images, from one process or many, and everything else that they say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import gather_object
from hotcoco.metrics import calibration_curve, calibration_error

from .average_precision import (
    AveragePrecision,
    ImageTable,
    bootstrap_differences,
    by_class,
    gain_of_repairs,
    interpolated_average_precision,
    mean_of_present,
)
from .inputs import Detections, ImageId, Objects, read_detections, read_objects
from .matching import DETECTION, ERROR_KINDS, IGNORED, NO_OBJECT, OBJECT, ErrorKinds, classify_image

SHOWN = 8
"""Errors of a kind that are drawn on a picture."""
CALIBRATION_BINS = 10


class EvaluatedImage(NamedTuple):
    """What is kept of an image; `position` is its index in the set, None if unknown."""

    position: int | None
    detections: Detections
    objects: Objects


class CocoEvaluator:
    """Collects the detections and objects of images; a detection in float32 takes 24 bytes.

    Args:
        names: class names in the order of the labels; at least one.
        max_detections: three rising limits of the detections of a class in an image, COCOeval's `maxDets`.
        worst: number of the worst pictures to find for each kind of error.

    >>> evaluator = CocoEvaluator(["cat", "dog"])
    >>> cat = {"scores": [0.9], "labels": [0], "boxes": [[10, 10, 30, 40]]}
    >>> evaluator.add(7, cat, [{"bbox": [10, 10, 20, 30], "category_id": 0}])
    >>> {name: round(value) for name, value in evaluator.compute().items() if name in ("AP", "AP50", "AP/dog")}
    {'AP': 100, 'AP50': 100, 'AP/dog': -1}
    """

    def __init__(self, names: Sequence[str], max_detections: Sequence[int] = (1, 10, 100), worst: int = 4):
        limits = tuple(max_detections)
        if not names:
            raise ValueError("names is empty: give the class names in the order of the labels.")
        if len(limits) != 3 or not 0 < limits[0] < limits[1] < limits[2] < 2**16:
            raise ValueError(f"max_detections={limits} must be three rising limits, such as (1, 10, 100).")
        self.names, self.max_detections, self.worst = list(names), limits, worst
        self.images: dict[ImageId, EvaluatedImage] = {}

    def __len__(self) -> int:
        return len(self.images)

    def add(
        self,
        image_id: ImageId,
        result: Mapping[str, Any],
        annotations: Sequence[Mapping[str, Any]],
        position: int | None = None,
    ) -> None:
        """Adds an image; an id that was added before is ignored. A ValueError names the image and the wrong value.

        Args:
            image_id: an integer or a string; all of one kind.
            result: `scores` `(D,)`, `labels` `(D,)` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels of the original
                picture, as `post_process_object_detection` returns them with threshold 0.
            annotations: the image's COCO annotations, all of them, crowd regions too, with labels as `category_id`;
                `area` and `iscrowd` may be missing.
            position: index of the image in its set, with which it can be drawn.
        """
        image_id = image_id.item() if hasattr(image_id, "item") else image_id
        if not isinstance(image_id, (int, str)):
            raise ValueError(f"image_id={image_id!r} must be an integer or a string, not {type(image_id).__name__}.")
        first = next(iter(self.images), image_id)
        if isinstance(first, str) != isinstance(image_id, str):
            raise ValueError(f"image_id={image_id!r} and {first!r} are of different kinds: use integers or strings.")
        if image_id in self.images:
            return
        detections = read_detections(image_id, result, len(self.names), self.max_detections[-1])
        objects = read_objects(image_id, annotations, len(self.names))
        self.images[image_id] = EvaluatedImage(position, detections, objects)

    def gather(self) -> None:
        """Gives every process the images of all, each once. Every process must call this; alone it does nothing."""
        images: dict[ImageId, EvaluatedImage] = {}
        for part in gather_object([self.images]):
            images = {**part, **images}
        self.images = images

    def compute(self) -> dict[str, float]:
        """AP and AR in percent, overall and of each class (`AP/name`); -1 where the set has no such object."""
        return self.result().metrics()

    def result(self) -> "EvaluationResult":
        """All numbers of the images so far; they do not depend on the order in which the images were added."""
        images = {image_id: self.images[image_id] for image_id in sorted(self.images)}  # COCOeval's order too
        return EvaluationResult(self.names, self.max_detections, images, self.worst)


class ErrorPicture(NamedTuple):
    """An image among the worst of a kind of error."""

    image_id: ImageId
    position: int | None  # its index in the set, None if unknown
    cost: float  # summed scores of the `SHOWN` highest errors of the kind; for missed objects their number
    found: np.ndarray  # (D,) of DETECTION
    boxes: np.ndarray  # (D, 4), x, y, width, height in pixels
    truth: np.ndarray  # (G,) of OBJECT
    objects: Objects


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of a set, each computed when it is first asked for."""

    names: list[str]  # of the K classes
    max_detections: tuple[int, int, int]  # COCOeval's `maxDets`
    images: dict[ImageId, EvaluatedImage]  # in rising order
    num_worst: int = 4  # pictures of each kind of error

    num_images = property(lambda self: len(self.images))

    @cached_property
    def num_objects(self) -> np.ndarray:
        """`(K,)` objects of each class, without crowd regions."""
        return np.bincount(self.truth["label"][~self.truth["crowd"]], minlength=len(self.names))

    @cached_property
    def coco(self) -> AveragePrecision:
        return self._table().average_precision()

    @cached_property
    def voc(self) -> np.ndarray:
        """`(K,)` AP at IoU 0.5 by VOC's definition since 2010, as fractions; -1 for classes without objects.

        The whole area below the precision that never rises with recall: COCO's mean, read at the recall of each object.
        """
        values = np.full(len(self.names), -1.0)
        for label, (found, _) in enumerate(by_class(self.found, self.truth, len(self.names))):
            if count := int(self.num_objects[label]):
                right, ignored, recalls = found["voc"] == 1, found["voc"] == IGNORED, np.arange(1, count + 1) / count
                values[label] = interpolated_average_precision(found["score"], right, count, ignored, recalls)
        return values

    found = property(lambda self: self._classified[0], doc="`DETECTION` of all images, in the order of the images.")
    truth = property(lambda self: self._classified[1], doc="`OBJECT` of all images, in the order of the images.")

    @cached_property
    def _classified(self) -> tuple[np.ndarray, np.ndarray]:
        images = [classify_image(image.detections, image.objects) for image in self.images.values()]
        found, truth = zip((np.zeros(0, DETECTION), np.zeros(0, OBJECT)), *images, strict=True)
        return np.concatenate(found), np.concatenate(truth)

    def _table(self) -> ImageTable:
        images = [(image.detections, image.objects) for image in self.images.values()]
        return ImageTable(images, len(self.names), self.max_detections)

    @cached_property
    def error_counts(self) -> dict[ErrorKinds, int]:
        """Number of errors by kind, of all detections that COCO counts, and of missed objects."""
        counts = {kind: int(np.count_nonzero(self.found["error"] == kind)) for kind in ERROR_KINDS}
        return counts | {ErrorKinds.MISSED: int(np.count_nonzero(self.truth["missed"]))}

    @cached_property
    def error_gains(self) -> dict[ErrorKinds, float]:
        """Rise of AP50, as a fraction, if a kind alone were repaired."""
        return gain_of_repairs(self.found, self.truth, len(self.names))

    def metrics(self) -> dict[str, float]:
        """COCO's twelve numbers, VOC's AP50 and each class's AP (`AP/name`), in percent; -1 for what is not there."""
        values = (*self.coco.stats, mean_of_present(self.voc))
        table = {name: _percent(value) for name, value in zip((*self.stat_names(), "VOC_AP50"), values, strict=True)}
        return table | {f"AP/{row['name']}": row["AP"] for row in self.class_rows()}

    def stat_names(self) -> tuple[str, ...]:
        """Names of COCO's twelve numbers; `AR100` is the recall with at most 100 detections."""
        limits = (f"AR{limit}" for limit in self.max_detections)
        return ("AP", "AP50", "AP75", "APs", "APm", "APl", *limits, "ARs", "ARm", "ARl")

    def class_rows(self) -> list[dict[str, str | int | float]]:
        """For each class its name, number of objects, and AP, AP50, AP75, AR and VOC_AP50 in percent."""
        precision, recall = self.coco.precision[..., 0, -1], self.coco.recall[..., 0, -1]  # (T, R, K), (T, K)
        columns = {"AP": precision, "AP50": precision[0], "AP75": precision[5], "AR": recall}  # K last in each
        return [
            {"name": name, "objects": int(self.num_objects[label])}
            | {column: _percent(mean_of_present(values[..., label])) for column, values in columns.items()}
            | {"VOC_AP50": _percent(float(self.voc[label]))}
            for label, name in enumerate(self.names)
        ]

    @cached_property
    def worst(self) -> dict[ErrorKinds, list[ErrorPicture]]:
        """For each kind of error the `num_worst` images of the highest cost; the lower id first among equals."""
        images = list(self.images.items())
        found = np.split(self.found, np.cumsum([len(image.detections.labels) for _, image in images])[:-1])
        truth = np.split(self.truth, np.cumsum([len(image.objects.labels) for _, image in images])[:-1])
        scores = {
            kind: [np.sort(one["score"][one["error"] == kind])[-SHOWN:].sum() for one in found] for kind in ERROR_KINDS
        }
        scores[ErrorKinds.MISSED] = [np.count_nonzero(one["missed"]) for one in truth]
        worst = {kind: [] for kind in ERROR_KINDS}
        for kind, pictures in worst.items():
            costs = np.array(scores[kind], dtype=np.float64)
            for index in np.argsort(-costs, kind="stable")[: self.num_worst]:
                if costs[index] > 0:
                    image_id, (position, detections, objects) = images[index]
                    errors = (float(costs[index]), found[index], detections.boxes, truth[index], objects)
                    pictures.append(ErrorPicture(image_id, position, *errors))
        return worst

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % confidence intervals of COCO's twelve numbers in percent, over other pictures, not other trainings."""
        own, rows = self.metrics(), bootstrap_differences(None, self._table())
        return {
            name: (-1.0, -1.0) if own[name] < 0 else (max(low, 0.0), min(high, 100.0))
            for name, (_, low, high, _) in zip(self.stat_names(), rows, strict=True)
        }

    def difference_to(self, other: "EvaluationResult") -> list[dict[str, str | float]]:
        """A paired test of this model against another; a ValueError if these are other images, classes or limits.

        For each of COCO's twelve numbers, in percent: `metric`, `value` of this model, `other`, `difference` (this
        minus other), `low` and `high` of its 95 % interval, and `p`, the two-sided p-value.
        """
        for field in ("names", "max_detections"):
            if getattr(self, field) != getattr(other, field):
                raise ValueError(f"{field} must be equal: {getattr(self, field)} and {getattr(other, field)}.")
        if self.images.keys() != other.images.keys():
            raise ValueError(f"Both results must have the same images: {self.num_images} and {other.num_images}.")
        rows, keys = bootstrap_differences(other._table(), self._table()), ("difference", "low", "high", "p")
        own, others = self.metrics(), other.metrics()
        return [
            {"metric": name, "value": own[name], "other": others[name], **dict(zip(keys, row, strict=True))}
            for name, row in zip(self.stat_names(), rows, strict=True)
        ]

    @cached_property
    def calibration(self) -> tuple[float, list[dict[str, float]]]:
        """Expected calibration error (ECE) at IoU 0.5 as a fraction: the mean gap between a bin's score and precision.

        Then the bins, each with `bin_lower`, `bin_upper`, `avg_confidence`, `avg_accuracy` and `count`.
        """
        scores, right = self._counted["score"], self._counted["error"] == ErrorKinds.CORRECT
        if not len(scores):
            return 0.0, []
        bins = [one for one in calibration_curve(scores, right, CALIBRATION_BINS) if one["count"]]
        return float(calibration_error(scores, right, CALIBRATION_BINS)[0]), bins

    @property
    def _counted(self) -> np.ndarray:  # without those on crowd regions
        return self.found[self.found["error"] != ErrorKinds.IGNORED]

    def threshold_curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scores `(N,)`, falling, and precision, recall and F1 at IoU 0.5 from each score on, all classes together."""
        ordered = self._counted[np.argsort(-self._counted["score"], kind="stable")]
        right, number = np.cumsum(ordered["error"] == ErrorKinds.CORRECT), np.arange(1, len(ordered) + 1)
        last = np.append(np.diff(ordered["score"]) != 0, True)[: len(ordered)]  # equal scores come together
        right, number, total = right[last], number[last], self.num_objects.sum()
        return ordered["score"][last], right / number, right / max(total, 1), 2 * right / (number + total)

    def best_threshold(self) -> float:
        """The score from which on detections have the highest F1 (see `threshold_curves`); 1 if none is right."""
        scores, _, _, f1 = self.threshold_curves()
        return float(scores[f1.argmax()]) if len(f1) and f1.max() > 0 else 1.0

    def useful_threshold(self) -> float | None:
        """The largest number of three digits below `best_threshold`, for "scores above"; None if nothing is right."""
        best = self.best_threshold()
        return (math.ceil(1000 * best) - 1) / 1000 if best < 1 else None

    def confusion(self, threshold: float) -> np.ndarray:
        """`(K + 1, K + 1)` counts: true class by row, detected class by column, the last of each is background.

        A detection with a score of `threshold` or more takes the free object that it overlaps most, at IoU >= 0.5 and
        whatever its class; the highest scores choose first. The last row counts detections without an object, the last
        column objects without a detection.
        """
        size = len(self.names) + 1
        counted = self.found[(self.found["score"] >= threshold) & (self.found["confused_with"] != IGNORED)]
        true = np.where(counted["confused_with"] == NO_OBJECT, size - 1, counted["confused_with"])
        matrix = np.zeros((size, size), dtype=np.int64)
        np.add.at(matrix, (true, counted["label"]), 1)
        matrix[:-1, -1] = self.num_objects - matrix[:-1, :-1].sum(1)
        return matrix


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else -1.0
