"""Where the tiles of a large picture lie, and how what was found in several of them becomes one detection each."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_area

MERGES = ("nmm", "nms")


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


def merged(detections: dict[str, Tensor], merge: str, threshold: float) -> dict[str, Tensor]:
    """One detection for each object, the highest score first.

    Args:
        detections: `scores` `(D,)`, `labels` `(D,)`, `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels.
        merge: `"nms"`: of boxes of a class with a higher IoU than the threshold the highest score stays. `"nmm"`: of
            boxes of a class whose intersection is more than this share of the smaller one, the box around them stays,
            with the highest score: a part that one tile has seen belongs to the whole in another.
        threshold: above 0, up to 1.
    """
    order = detections["scores"].argsort(descending=True, stable=True)
    scores, labels, boxes = (detections[name][order] for name in ("scores", "labels", "boxes"))
    if merge == "nms":
        keep = batched_nms(boxes, scores, labels, threshold)
        return {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}
    count = -1
    while count != len(boxes):  # a box that has grown may take in others
        count = len(boxes)
        keep, boxes = _merge_once(labels, boxes, threshold)
        scores, labels = scores[keep], labels[keep]
    return {"scores": scores, "labels": labels, "boxes": boxes}


def _merge_once(labels: Tensor, boxes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Indices of those that stay, in their order, and their boxes."""
    left = torch.ones(len(boxes), dtype=torch.bool)
    areas = box_area(boxes)
    keep, grown = [], []
    for index in range(len(boxes)):
        if not left[index]:
            continue
        corner = torch.minimum(boxes[index, 2:], boxes[:, 2:])
        inside = (corner - torch.maximum(boxes[index, :2], boxes[:, :2])).clamp(min=0).prod(1)
        together = left & (labels == labels[index]) & (inside > threshold * torch.minimum(areas, areas[index]))
        together[index] = True  # also where it has no area
        left &= ~together
        keep.append(index)
        grown.append(torch.cat([boxes[together, :2].amin(0), boxes[together, 2:].amax(0)]))
    return torch.tensor(keep, dtype=torch.int64), torch.stack(grown) if grown else boxes
