"""Detections and annotated objects of one image as arrays, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

ImageId = int | str


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Attributes:
        labels: `(G,)` int64.
        boxes: `(G, 4)` float64, x, y, width, height in pixels.
        area: `(G,)` float64, square pixels; decides between small, medium and large.
        crowd: `(G,)` bool, True for a region of many objects, on which detections are neither right nor wrong.
    """

    labels: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Detections:
    """The detections of one image: `labels` `(D,)` int64, `boxes` `(D, 4)` x y w h in pixels and `scores` `(D,)`."""

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: np.ndarray) -> "Detections":
        return Detections(self.labels[index], self.boxes[index], self.scores[index])


def read_objects(image_id: ImageId, annotations: Sequence[Mapping[str, Any]], num_classes: int) -> Objects:
    """Objects of COCO annotations whose `category_id` is a label from 0.

    Args:
        image_id: named in errors.
        annotations: each with `bbox` (x, y, width, height in pixels) and `category_id`; `area` may be missing or None,
            and then is the box's, and so may `iscrowd`, which then is 0. Other keys are ignored.
        num_classes: labels are below it.

    Raises:
        ValueError: a key is missing, a box is not four finite numbers with sides >= 0, or a label is none of the
            classes.
    """
    where = f"Image {image_id!r}"
    for annotation in annotations:
        for key in ("bbox", "category_id"):
            if annotation.get(key) is None:
                raise ValueError(f"{where}: the annotation {dict(annotation)} has no {key!r}; add it or leave it out.")
    labels = _labels([annotation["category_id"] for annotation in annotations], num_classes, f"{where}, annotations")
    boxes = _boxes([annotation["bbox"] for annotation in annotations], f"{where}, annotations")
    areas = [annotation.get("area") for annotation in annotations]
    area = np.where([value is None for value in areas], boxes[:, 2] * boxes[:, 3], np.array(areas, dtype=np.float64))
    crowd = np.array([bool(annotation.get("iscrowd")) for annotation in annotations], dtype=bool)
    return Objects(labels, boxes, area, crowd)


def read_detections(image_id: ImageId, result: Mapping[str, Any], num_classes: int) -> Detections:
    """Detections of what `post_process_object_detection` returns for an image.

    Args:
        image_id: named in errors.
        result: `scores` `(D,)`, `labels` `(D,)` and `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels of the original picture,
            as tensors, arrays or lists.
        num_classes: labels are below it.

    Raises:
        ValueError: lengths differ, a score is not finite, a box has a negative side, or a label is none of the classes.
    """
    where = f"Image {image_id!r}, detections"
    missing = [key for key in ("scores", "labels", "boxes") if key not in result]
    if missing:
        raise ValueError(f"{where}: {missing[0]!r} is missing, there are only {list(result)}.")
    scores = _array(result["scores"])
    labels = _labels(result["labels"], num_classes, where)
    corners = _array(result["boxes"]).reshape(-1, 4)
    if not len(scores) == len(labels) == len(corners):
        raise ValueError(f"{where}: {len(scores)} scores, {len(labels)} labels and {len(corners)} boxes do not fit.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{where}: the score {scores[~np.isfinite(scores)][0]} is not finite; check the model.")
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Detections(labels, _boxes(boxes, where), scores)


def _array(values: Any) -> np.ndarray:
    """In float64, in which COCOeval computes with Python's numbers."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _labels(values: Any, num_classes: int, where: str) -> np.ndarray:
    labels = _array(values).astype(np.int64)
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ValueError(
            f"{where}: the label {wrong[0]} is none of the {num_classes} classes (0 to {num_classes - 1}); map "
            "category ids to labels first, or name all classes."
        )
    return labels


def _boxes(values: Any, where: str) -> np.ndarray:
    boxes = _array(values)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: boxes have the shape {boxes.shape}, not (objects, 4).")
    wrong = ~(np.isfinite(boxes).all(1) & (boxes[:, 2:] >= 0).all(1))
    if wrong.any():
        raise ValueError(
            f"{where}: the box {boxes[wrong][0].tolist()} (x, y, width, height) is not finite or has a negative side; "
            "check whether corners were taken for sides or the other way round."
        )
    return boxes
