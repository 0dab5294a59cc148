"""How far an exported file is from the model it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..modeling_sam_detr import SamDetrForObjectDetection
from ..post_processing import best_detections
from .program import example_inputs
from .run import ExportedDetector

BOX_TOLERANCE = 1e-4
"""Of a coordinate, in shares of the picture, in float32."""
TIE = 1e-5
"""Two scores that are closer may stand in either order."""
Shape = tuple[int, int, int]
"""Batch size, height and width."""
CHECKED_SHAPES: tuple[Shape, ...] = ((1, 160, 128), (3, 203, 250))


@dataclass(frozen=True)
class Difference:
    """Of all boxes that were compared.

    Attributes:
        largest, mean: of the coordinates' differences, in shares of the picture.
        scores: the largest difference of a score.
        off: how many boxes have a coordinate that differs by more than `BOX_TOLERANCE`.
        labels: how many have another label; of detections those whose score is in no tie.
        count: how many there are.
    """

    largest: float
    mean: float
    scores: float
    off: int
    labels: int
    count: int

    def __str__(self) -> str:
        return (
            f"{self.count} boxes differ by up to {self.largest:.1e} of the picture, on average by {self.mean:.1e}, "
            f"{self.off} by more than {BOX_TOLERANCE:g}; scores by up to {self.scores:.1e}; {self.labels} other labels"
        )


@torch.no_grad()
def compare(
    exported: ExportedDetector,
    model: SamDetrForObjectDetection,
    shapes: Sequence[Shape] = CHECKED_SHAPES,
    top_k: int | None = None,
    seed: int = 1,
) -> Difference:
    """Runs both on random padded batches.

    Args:
        exported: with the outputs of the model, or with `top_k` detections.
        model: in evaluation mode, on the CPU.
        shapes: of the batches.
        seed: of the pictures.
    """
    boxes_off, scores_off, labels_off = [], [], []
    for shape in shapes:
        inputs = example_inputs(model.config.num_channels, *shape, seed=seed)
        sizes = inputs.pop("target_sizes")
        expected = model(**inputs)
        if top_k is None:
            found = exported(**inputs)
            boxes_off.append((found.pred_boxes - expected.pred_boxes).abs().amax(-1))
            scores_off.append((found.logits.sigmoid() - expected.logits.sigmoid()).abs())
            labels_off.append(_decided(expected.logits) & (found.logits.argmax(-1) != expected.logits.argmax(-1)))
            continue
        found = exported(**inputs, target_sizes=sizes)
        scores, labels, boxes = best_detections(expected.logits, expected.pred_boxes, top_k, sizes)
        clear = _clear(scores)
        pixels = sizes.flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): W H W H
        boxes_off.append(((found["boxes"] - boxes) / pixels).abs().amax(-1)[clear])
        scores_off.append((found["scores"] - scores).abs())
        labels_off.append((found["labels"] != labels) & clear)
    boxes, scores, labels = (
        torch.cat([part.flatten() for part in parts]) for parts in (boxes_off, scores_off, labels_off)
    )
    return Difference(
        largest=boxes.max().item(),
        mean=boxes.mean().item(),
        scores=scores.max().item(),
        off=int((~(boxes <= BOX_TOLERANCE)).sum()),  # what is not a number is off, too
        labels=int(labels.sum()),
        count=len(boxes),
    )


def _decided(logits: Tensor) -> Tensor:
    """`(B, Q)`: whether the best label of a query leads the next by more than a tie."""
    if logits.shape[-1] == 1:
        return torch.ones_like(logits[..., 0], dtype=torch.bool)
    first, second = logits.sigmoid().topk(2, dim=-1).values.unbind(-1)
    return first - second > TIE


def _clear(scores: Tensor) -> Tensor:
    """`(B, D)`: whether a detection's place is its own, scores being in descending order; the last one's never is."""
    gaps = scores[:, :-1] - scores[:, 1:] > TIE
    edge = gaps.new_ones(len(gaps), 1)
    return torch.cat([edge, gaps], dim=1) & torch.cat([gaps, ~edge], dim=1)
