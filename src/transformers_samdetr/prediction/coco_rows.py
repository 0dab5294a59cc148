"""Detections as rows of COCO's results, with names beside the ids."""

import torch
from torch import Tensor

from .detector import Detector


def coco_rows(image_id: int, file_name: str, detections: dict[str, Tensor], detector: Detector) -> list[dict]:
    """A row for each detection of a picture.

    Args:
        image_id: of the picture.
        file_name: of the picture.
        detections: `scores`, `labels` and `boxes`, x1 y1 x2 y2 in pixels.
        detector: for names and category ids.

    Returns:
        `image_id`, `file_name`, `category_id`, `category_name`, `bbox` (x, y, width, height in pixels) and `score`.
    """
    x1, y1, x2, y2 = detections["boxes"].double().unbind(-1)
    boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], -1).tolist()
    columns = detections["labels"].tolist(), boxes, detections["scores"].tolist()
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": detector.category_ids[label],
            "category_name": detector.names[label],
            "bbox": bbox,
            "score": score,
        }
        for label, bbox, score in zip(*columns, strict=True)
    ]
