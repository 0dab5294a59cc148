"""What an evaluation says, as numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .average_precision import AveragePrecision, average_precision, gain_of_repairs
from .errors import ERROR_KINDS, ErrorKinds
from .matching import IGNORED, NO_OBJECT
from .worst_pictures import WorstPictures


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of a set.

    Attributes:
        names: class names, K of them.
        max_detections: COCOeval's `maxDets`.
        num_images: images that were counted.
        num_objects: `(K,)`, without crowd regions.
        coco: average precision as fractions.
        worst: pictures by kind of error.
        found, truth: `DETECTION` and `OBJECT` of all images.
    """

    names: list[str]
    max_detections: tuple[int, int, int]
    num_images: int
    num_objects: np.ndarray
    coco: AveragePrecision
    worst: WorstPictures
    found: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(
        cls,
        found: np.ndarray,
        truth: np.ndarray,
        names: Sequence[str],
        max_detections: tuple[int, int, int],
        num_images: int,
        worst: WorstPictures,
    ) -> "EvaluationResult":
        """Computes the numbers of the matches of all images."""
        return cls(
            list(names),
            max_detections,
            num_images,
            np.bincount(truth["label"][~truth["ignored"][:, 0]], minlength=len(names)),
            average_precision(found, truth, len(names), max_detections),
            worst,
            found,
            truth,
        )

    @cached_property
    def error_counts(self) -> dict[ErrorKinds, int]:
        """Number of errors by kind, of all detections that COCO counts, and of missed objects."""
        counts = {kind: int(np.count_nonzero(self.found["error"] == kind)) for kind in ERROR_KINDS}
        return counts | {ErrorKinds.MISSED: int(np.count_nonzero(self.truth["missed"]))}

    @cached_property
    def error_gains(self) -> dict[ErrorKinds, float]:
        """Rise of AP50, as a fraction, if a kind alone were repaired; computed when it is asked for."""
        return gain_of_repairs(self.found, self.truth, len(self.names))

    def metrics(self) -> dict[str, float]:
        """COCO's twelve numbers, VOC's AP50 and each class's AP (`AP/name`), in percent; -1 for what is not there."""
        table = {name: _percent(value) for name, value in zip(self.stat_names(), self.coco.stats, strict=True)}
        table["VOC_AP50"] = _percent(mean_of_present(self.coco.voc))
        return table | {f"AP/{row['name']}": row["AP"] for row in self.class_rows()}

    def stat_names(self) -> tuple[str, ...]:
        """Names of COCO's twelve numbers; `AR100` is the recall with at most 100 detections."""
        limits = (f"AR{limit}" for limit in self.max_detections)
        return ("AP", "AP50", "AP75", "APs", "APm", "APl", *limits, "ARs", "ARm", "ARl")

    def class_rows(self) -> list[dict[str, str | int | float]]:
        """For each class its name, number of objects, and AP, AP50, AP75, AR and VOC_AP50 in percent."""
        precision, recall = self.coco.precision[..., 0, -1], self.coco.recall[..., 0, -1]  # (T, R, K), (T, K)
        return [
            {
                "name": name,
                "objects": int(self.num_objects[label]),
                "AP": _percent(mean_of_present(precision[:, :, label])),
                "AP50": _percent(mean_of_present(precision[0, :, label])),
                "AP75": _percent(mean_of_present(precision[5, :, label])),
                "AR": _percent(mean_of_present(recall[:, label])),
                "VOC_AP50": _percent(float(self.coco.voc[label])),
            }
            for label, name in enumerate(self.names)
        ]

    def threshold_curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scores `(N,)`, falling, and precision, recall and F1 of all detections from each score on, at IoU 0.5.

        All classes together; crowd regions and the detections on them do not count.
        """
        counted = self.found[self.found["error"] != ErrorKinds.IGNORED]
        ordered = counted[np.argsort(-counted["score"], kind="stable")]
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


def mean_of_present(values: np.ndarray) -> float:
    """The mean of what is not -1, as COCOeval averages; -1 where nothing is there."""
    return float(values[values > -1].mean()) if (values > -1).any() else -1.0


def _percent(value: float) -> float:
    return float(value) * 100 if value >= 0 else -1.0
