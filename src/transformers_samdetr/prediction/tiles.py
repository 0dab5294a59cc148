"""Where the tiles of a large picture lie, and how what was found in several of them becomes one detection each."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_area

CUT_MARGIN = 0.02
"""How near to a border that cuts the picture, as a share of the tile's side, a box counts as cut; predictions are not
exact."""


def tile_boxes(width: int, height: int, side: int, overlap: float) -> Iterator[tuple[int, int, int, int]]:
    """Tiles that cover a picture, as few as have at least the overlap, spread evenly, row by row.

    Args:
        width, height: of the picture, in pixels.
        side: of a tile, in pixels; a picture that is narrower has narrower tiles.
        overlap: of neighbours, as a share of their side.

    Yields:
        x1, y1, x2, y2 in pixels.

    >>> list(tile_boxes(100, 40, side=40, overlap=0.25))
    [(0, 0, 40, 40), (30, 0, 70, 40), (60, 0, 100, 40)]
    """
    for top in _starts(height, side, overlap):
        for left in _starts(width, side, overlap):
            yield left, top, min(left + side, width), min(top + side, height)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / max(1, side * (1 - overlap))) + 1
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def is_cut(boxes: Tensor, tile: tuple[int, int, int, int], width: int, height: int) -> Tensor:
    """`(D,)` bool: the box reaches a border of the tile that is none of the picture, so that more may lie beyond it.

    Args:
        boxes: `(D, 4)`, x1, y1, x2, y2 in pixels of the picture.
        tile: likewise.
        width, height: of the picture.
    """
    left, top, right, bottom = tile
    margin = CUT_MARGIN * max(right - left, bottom - top)
    x1, y1, x2, y2 = boxes.unbind(-1)
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for inner, reaches in (
        (left > 0, x1 < left + margin),
        (top > 0, y1 < top + margin),
        (right < width, x2 > right - margin),
        (bottom < height, y2 > bottom - margin),
    ):
        cut |= reaches & inner
    return cut


def merged(detections: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """One detection for each object, the highest score first; classes are kept apart.

    Of whole boxes with an IoU above the threshold the highest score stays. A cut box of which more than the threshold
    lies in a whole one is a part of it, whatever its score, and goes. Other cut boxes that share more than the
    threshold of the smaller one are parts of one object: the box around them stays, with the highest score.

    Args:
        detections: `scores` `(D,)`, `labels` `(D,)`, `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels, and `cut` `(D,)`.
        threshold: above 0, up to 1.
    """
    order = detections["scores"].argsort(descending=True, stable=True)
    scores, labels, boxes, cut = (detections[name][order] for name in ("scores", "labels", "boxes", "cut"))
    whole = torch.nonzero(~cut).flatten()
    whole = whole[batched_nms(boxes[whole], scores[whole], labels[whole], threshold)]
    parts = torch.nonzero(cut).flatten()
    inside = _shared(boxes[parts], boxes[whole]) > threshold * box_area(boxes[parts])[:, None]
    inside &= labels[parts][:, None] == labels[whole]
    parts = parts[~inside.any(1)]
    keep, grown = _joined(labels[parts], boxes[parts], threshold)
    result = {
        "scores": torch.cat([scores[whole], scores[parts][keep]]),
        "labels": torch.cat([labels[whole], labels[parts][keep]]),
        "boxes": torch.cat([boxes[whole], grown]),
    }
    order = result["scores"].argsort(descending=True, stable=True)
    return {name: values[order] for name, values in result.items()}


def _shared(boxes: Tensor, others: Tensor) -> Tensor:
    """`(D, E)` areas that the `D` boxes share with the `E` others."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clamp(min=0).prod(-1)


def _joined(labels: Tensor, boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Indices of the first of each group of parts, and the boxes around the groups."""
    keep, count = torch.arange(len(boxes)), -1
    while count != len(keep):  # a box that has grown may reach others
        count = len(keep)
        chosen, boxes = _join_once(labels[keep], boxes, threshold)
        keep = keep[chosen]
    return keep, boxes


def _join_once(labels: Tensor, boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    free = torch.ones(len(boxes), dtype=torch.bool)
    areas = box_area(boxes)
    keep, grown = [], []
    for index in range(len(boxes)):
        if not free[index]:
            continue
        shared = _shared(boxes[index : index + 1], boxes)[0]
        together = free & (labels == labels[index]) & (shared > threshold * torch.minimum(areas, areas[index]))
        together[index] = True  # also where it has no area
        free &= ~together
        keep.append(index)
        grown.append(torch.cat([boxes[together, :2].amin(0), boxes[together, 2:].amax(0)]))
    return torch.tensor(keep, dtype=torch.int64), torch.stack(grown) if grown else boxes
