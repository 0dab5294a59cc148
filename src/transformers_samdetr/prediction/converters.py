"""Detections for the users of `supervision` and of FiftyOne, where these packages are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor
from torchvision.ops import box_convert

if TYPE_CHECKING:
    import fiftyone
    import supervision


def to_supervision(detections: Mapping[str, Tensor], id2label: Mapping[int, str]) -> supervision.Detections:
    """Detections of a picture for annotators, trackers, zones and metrics of `supervision`.

    Args:
        detections: `scores` `(D,)`, `labels` `(D,)` and `boxes` `(D, 4)`, x1 y1 x2 y2 in pixels, as
            `post_process_object_detection` returns them with `target_sizes`.
        id2label: of the model's configuration; the names become `data["class_name"]`.

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs `pip install supervision`") from error
    return supervision.Detections.from_transformers(dict(detections), id2label=dict(id2label))


def to_fiftyone(
    detections: Mapping[str, Tensor], id2label: Mapping[int, str], size: tuple[int, int]
) -> fiftyone.Detections:
    """Detections of a picture, given as to `to_supervision`, as a field of a FiftyOne sample.

    `size` is height and width of the picture in pixels; boxes become x, y, width, height as shares of it, cut to it.

    Raises:
        ImportError: FiftyOne is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError("to_fiftyone needs `pip install fiftyone`") from error
    columns = detections["scores"].tolist(), detections["labels"].tolist(), relative_boxes(detections["boxes"], size)
    found = [
        fiftyone.Detection(label=id2label[label], bounding_box=box, confidence=score)
        for score, label, box in zip(*columns, strict=True)
    ]
    return fiftyone.Detections(detections=found)


def relative_boxes(boxes: Tensor, size: tuple[int, int]) -> list[list[float]]:
    """`(D, 4)` boxes x1 y1 x2 y2 in pixels as lists of x, y, width, height, shares of a picture, within [0, 1].

    >>> import torch
    >>> relative_boxes(torch.tensor([[-5.0, 10, 50, 20]]), (40, 100))
    [[0.0, 0.25, 0.5, 0.25]]
    """
    scale = boxes.new_tensor([*size[::-1]] * 2).double().cpu()
    corners = box_convert((boxes.detach().double().cpu() / scale).clamp(0, 1), "xyxy", "xywh")
    return corners.tolist()
