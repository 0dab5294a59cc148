"""Detects small objects on a large picture: in overlapping tiles at full size, and on the whole picture.

python examples/sliced_detection.py large.jpg --model outputs/digits --side 256 --output sliced.png

Tiles should be as large as the pictures that the model was trained on. `SlicedDetector` can be copied into other code.
supervision's InferenceSlicer keeps parts of objects that a tile's border has cut, this one puts them together: figures
in docs/reliability.md.
"""

import argparse
import math

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_area

from transformers_samdetr.pictures import open_picture, picture_to_array
from transformers_samdetr.prediction import Detector, choose_threshold

CUT_MARGIN = 0.02
"""Distance to a border that cuts the picture, as a share of the tile's side, below which a box counts as cut."""
MAX_TILES = 10_000
MAX_DETECTIONS = 5_000
"""Of all tiles together, before they are merged: those with the highest scores."""

View = tuple[int, int, int, int]


class SlicedDetector:
    """An object smaller than the overlap is whole in at least one tile; larger ones are found on the whole picture.

    Args:
        detector: of a saved model.
        side: of a tile in pixels; about the size of the pictures that the model was trained on.
        overlap: of neighbouring tiles, as a share of `side`.
        whole_picture: whether to detect on the resized whole picture, too.
        merge_threshold: overlap above which boxes of a class are one object, see `merge_tiles`.
        batch_size: tiles in a forward pass.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        detector: Detector,
        side: int = 640,
        overlap: float = 0.25,
        whole_picture: bool = True,
        merge_threshold: float = 0.5,
        batch_size: int = 4,
    ):
        for name, value in (("side", side), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap={overlap} must be between 0 and 0.9.")
        if not 0 < merge_threshold <= 1:
            raise ValueError(f"merge_threshold={merge_threshold} must be above 0 and at most 1.")
        self.detector, self.side, self.overlap = detector, side, overlap
        self.whole_picture, self.merge_threshold, self.batch_size = whole_picture, merge_threshold, batch_size

    def detect(self, image: Image.Image, threshold: float, top_k: int = 1000) -> dict[str, Tensor]:
        """`scores`, descending, `labels` and `boxes` (x1, y1, x2, y2 in the picture's pixels, within it), on the CPU.

        Args:
            image: upright RGB.
            threshold: as in `Detector.detect`.
            top_k: at most so many detections.

        Raises:
            ValueError: there would be more than `MAX_TILES` tiles.
        """
        whole = (0, 0, *image.size)
        views = tile_boxes(*image.size, self.side, self.overlap)
        if self.whole_picture and whole not in views:
            views.append(whole)
        found: list[dict[str, Tensor]] = []
        for start in range(0, len(views), self.batch_size):
            batch = views[start : start + self.batch_size]
            crops = [image if view == whole else image.crop(view) for view in batch]
            for view, detections in zip(batch, self.detector.detect(crops, threshold=threshold), strict=True):
                boxes = detections["boxes"]
                limits = boxes.new_tensor([view[2] - view[0], view[3] - view[1]] * 2)
                boxes = boxes.clamp(min=0).minimum(limits) + boxes.new_tensor(view[:2] * 2)
                found.append({**detections, "boxes": boxes, "cut": is_cut(boxes, view, *image.size)})
        together = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        highest = together["scores"].argsort(descending=True, stable=True)[:MAX_DETECTIONS]
        together = {name: values[highest] for name, values in together.items()}
        return {name: values[:top_k] for name, values in merge_tiles(together, self.merge_threshold).items()}


def tile_boxes(width: int, height: int, side: int, overlap: float) -> list[View]:
    """The fewest tiles, x1, y1, x2, y2, that cover a picture, spread evenly, row by row; at most `MAX_TILES`.

    `width`, `height` and `side` are in pixels; a narrower picture has narrower tiles. Neighbours overlap at least by
    this share of their side.

    >>> tile_boxes(100, 40, side=40, overlap=0.25)
    [(0, 0, 40, 40), (30, 0, 70, 40), (60, 0, 100, 40)]
    """
    sides = width, height
    lasts = [math.ceil(max(0, length - side) / max(1, side * (1 - overlap))) for length in sides]
    if math.prod(last + 1 for last in lasts) > MAX_TILES:
        tiles = f"{MAX_TILES} tiles of side={side}"
        raise ValueError(f"A picture of {width}x{height} has more than {tiles}: give a larger side.")
    columns, rows = (
        [round(index * (length - side) / max(1, last)) for index in range(last + 1)]
        for length, last in zip(sides, lasts, strict=True)
    )
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def is_cut(boxes: Tensor, tile: View, width: int, height: int) -> Tensor:
    """`(D,)` bool: the box reaches a border of the tile that is not a border of the picture.

    Boxes `(D, 4)` and the tile are x1, y1, x2, y2 in pixels of the picture, `width` and `height` the picture's.
    """
    left, top, right, bottom = tile
    margin = CUT_MARGIN * max(right - left, bottom - top)
    low, high = boxes.new_tensor([left + margin, top + margin]), boxes.new_tensor([right - margin, bottom - margin])
    reaches = torch.cat([boxes[:, :2] < low, boxes[:, 2:] > high], dim=1)
    return (reaches & torch.tensor([left > 0, top > 0, right < width, bottom < height])).any(1)


def merge_tiles(detections: dict[str, Tensor], threshold: float) -> dict[str, Tensor]:
    """One detection for each object, by descending score; classes are kept apart.

    1. Of whole boxes with an IoU above the threshold, the highest score stays.
    2. A cut box of which more than the threshold lies in a whole one is a part of it, whatever its score, and goes.
    3. Other cut boxes that share more than the threshold of the smaller one are parts of one object: the box around
       them stays, with the highest score.

    Given are `scores` `(D,)`, `labels` `(D,)`, `boxes` `(D, 4)`, x1, y1, x2, y2 in pixels, and `cut` `(D,)`; the
    threshold is above 0, up to 1.
    """
    order = detections["scores"].argsort(descending=True, stable=True)
    scores, labels, boxes, cut = (detections[name][order] for name in ("scores", "labels", "boxes", "cut"))
    whole, parts = torch.nonzero(~cut).flatten(), torch.nonzero(cut).flatten()
    whole = whole[batched_nms(boxes[whole], scores[whole], labels[whole], threshold)]
    inside = _shared_area(boxes[parts], boxes[whole]) > threshold * box_area(boxes[parts])[:, None]
    inside &= labels[parts][:, None] == labels[whole]
    parts = parts[~inside.any(1)]
    count = -1
    while count != len(parts):  # a box that has grown may reach others
        count, waiting, kept = len(parts), parts, []
        while len(waiting):
            first, own = waiting[0], boxes[waiting]
            areas = box_area(own)
            together = _shared_area(own[:1], own)[0] > threshold * torch.minimum(areas, areas[0])
            together &= labels[waiting] == labels[first]
            together[0] = True  # also where it has no area
            boxes[first] = torch.cat([own[together, :2].amin(0), own[together, 2:].amax(0)])
            kept.append(first)
            waiting = waiting[~together]
        parts = torch.stack(kept) if kept else parts
    keep = torch.cat([whole, parts])
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    return {"scores": scores[keep], "labels": labels[keep], "boxes": boxes[keep]}


def _shared_area(boxes: Tensor, others: Tensor) -> Tensor:
    """`(D, E)` areas that the `D` boxes share with the `E` others."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clamp(min=0).prod(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture")
    parser.add_argument("--model", required=True, help="folder or Hub name")
    parser.add_argument("--side", type=int, default=640, help="of a tile, in pixels")
    parser.add_argument("--overlap", type=float, default=0.25, help="of neighbouring tiles, as a share of the side")
    parser.add_argument("--threshold", type=float, help="score threshold; default: the model's own, or 0.3")
    parser.add_argument("--batch_size", type=int, default=4, help="tiles that go through the model together")
    parser.add_argument("--output", default="sliced.png")
    args = parser.parse_args()

    detector = Detector(args.model)
    sliced = SlicedDetector(detector, args.side, args.overlap, batch_size=args.batch_size)
    threshold = choose_threshold(detector.model.config, args.threshold).value
    image = Image.fromarray(picture_to_array(open_picture(args.picture)))  # upright, RGB

    (whole,) = detector.detect([image], threshold)
    found = sliced.detect(image, threshold)
    for label, score, box in zip(found["labels"].tolist(), found["scores"], found["boxes"], strict=True):
        print(f"{detector.names[label]}  {score:.2f}  {[round(side) for side in box.tolist()]}")
    detector.draw(image, found).save(args.output)
    print(f"{len(found['scores'])} in tiles, {len(whole['scores'])} on the whole picture alone: {args.output}")


if __name__ == "__main__":
    main()
