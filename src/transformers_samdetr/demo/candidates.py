"""All detections of a picture, from which sliders choose without the model."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

MOST = 300
"""Detections of a picture that are kept; the sliders choose among them."""


@dataclass(frozen=True)
class Candidates:
    """The detections of a picture of any score, the best first.

    Attributes:
        scores: `(D,)`.
        labels: `(D,)`.
        boxes: `(D, 4)`, x1, y1, x2, y2 in pixels.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor

    def select(self, threshold: float, top_k: int, nms_threshold: float | None) -> dict[str, Tensor]:
        """What `Detector.detect` returns with these options: the same detections, in the same order."""
        keep = torch.arange(len(self.scores))[:top_k]
        keep = keep[self.scores[keep] > threshold]
        if nms_threshold is not None:
            keep = keep[batched_nms(self.boxes[keep], self.scores[keep], self.labels[keep], nms_threshold)]
        return {"scores": self.scores[keep], "labels": self.labels[keep], "boxes": self.boxes[keep]}


def at_point(detections: dict[str, Tensor], x: float, y: float) -> int | None:
    """Index of the smallest box that a point lies in, or None: a click on a small box on a large one means the small.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [2, 2, 4, 4]])
    >>> at_point({"boxes": boxes}, 3, 3), at_point({"boxes": boxes}, 9, 9), at_point({"boxes": boxes}, 20, 3)
    (1, 0, None)
    """
    x1, y1, x2, y2 = detections["boxes"].unbind(-1)
    inside = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
    if not inside.any():
        return None
    areas = torch.where(inside, (x2 - x1) * (y2 - y1), torch.inf)
    return int(areas.argmin())
