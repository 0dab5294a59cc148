"""Detections and annotated objects of one image as checked NumPy arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..annotations import read_object

ImageId = int | str


class Objects(NamedTuple):
    """The annotated objects of one image."""

    labels: np.ndarray  # (G,) int32
    boxes: np.ndarray  # (G, 4) float64, x, y, width, height in pixels
    area: np.ndarray  # (G,) float64, square pixels; decides between small, medium and large
    crowd: np.ndarray  # (G,) bool, a region of many objects; detections on it are neither right nor wrong


class Detections(NamedTuple):
    """The detections of one image, in float32 if that loses nothing, as with a model's outputs, else in float64."""

    labels: np.ndarray  # (D,) int32
    corners: np.ndarray  # (D, 4), x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (D,)

    @property
    def boxes(self) -> np.ndarray:
        """`(D, 4)` float64, x, y, width, height in pixels."""
        corners = self.corners.astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        return corners


def read_objects(image_id: ImageId, annotations: Sequence[Mapping[str, Any]], num_classes: int) -> Objects:
    """Checks the COCO annotations of an image as `read_object` does; their ids, if there are any, are not read."""
    where, labels = f"Image {image_id!r}, annotation", range(num_classes)
    parsed = [read_object({**one, "id": None}, f"{where} {i}", None, labels) for i, one in enumerate(annotations)]
    boxes = np.array([one["bbox"] for one in parsed], dtype=np.float64).reshape(-1, 4)
    area = np.array([one["area"] for one in parsed], dtype=np.float64)
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)
    labels = np.array([one["label"] for one in parsed], dtype=np.int32)
    return Objects(labels, boxes, area, np.array([one["iscrowd"] for one in parsed], dtype=bool))


def read_detections(
    image_id: ImageId, result: Mapping[str, Any], num_classes: int, max_per_class: int | None = None
) -> Detections:
    """Checks what `post_process_object_detection` returns for an image; a ValueError names it and the wrong value.

    `scores` `(D,)`, `labels` `(D,)` below `num_classes` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels of the original
    picture, are tensors, arrays or lists. Of each class the `max_per_class` highest scores are kept; None keeps all.
    """
    where = f"Image {image_id!r}, detections"
    missing = [key for key in ("scores", "labels", "boxes") if key not in result]
    if missing:
        raise ValueError(f"{where}: {missing[0]!r} is missing; the keys are {list(result)}.")
    scores, labels, corners = (_float64(result[key]) for key in ("scores", "labels", "boxes"))
    corners = corners.reshape(-1, 4)
    if not len(scores) == len(labels) == len(corners):
        raise ValueError(f"{where}: {len(scores)} scores, {len(labels)} labels and {len(corners)} boxes do not fit.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{where}: the score {scores[~np.isfinite(scores)][0]} is not finite; check the model.")
    wrong = labels[~((labels >= 0) & (labels < num_classes))]
    if len(wrong):
        problem = f"the label {wrong[0]:g} must be from 0 to {num_classes - 1}, for {num_classes} classes"
        raise ValueError(f"{where}: {problem}; map category ids to labels first, or name all classes.")
    wrong = ~(np.isfinite(corners).all(1) & (corners[:, :2] <= corners[:, 2:]).all(1))
    if wrong.any():
        problem = f"the box {corners[wrong][0].tolist()} (x1, y1, x2, y2) is not finite or has a negative side"
        raise ValueError(f"{where}: {problem}; check whether corners were given as sides, or sides as corners.")
    if max_per_class is not None and len(labels) > max_per_class:
        order = np.lexsort((-scores, labels))
        starts = np.searchsorted(labels[order], labels[order])
        kept = np.sort(order[np.arange(len(order)) - starts < max_per_class])
        labels, corners, scores = labels[kept], corners[kept], scores[kept]
    narrow = corners.astype(np.float32), scores.astype(np.float32)
    compact = (a if np.array_equal(a, b) else b for a, b in zip(narrow, (corners, scores), strict=True))
    return Detections(labels.astype(np.int32), *compact)


def _float64(values: Any) -> np.ndarray:
    """The values on the host in float64, in which COCOeval computes; no tensor on the device becomes float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values, dtype=np.float64)
