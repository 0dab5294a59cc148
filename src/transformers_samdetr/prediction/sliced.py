"""Detection on pictures much larger than a model takes: in overlapping tiles, and on the whole beside."""

import itertools
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from .detector import Detector
from .tiles import is_cut, merged, tile_boxes

MOST_TILES = 10_000
MOST_DETECTIONS = 5_000
"""Of all tiles, before they are merged: the highest."""


class SlicedDetector:
    """Detects small objects on large pictures.

    A model sees a picture made smaller, to 800 pixels or so; an object of 30 in one of 8000 is then lost. Here it sees
    one tile after the other in full size. An object that is smaller than the overlap is whole in one tile at least;
    larger ones are found on the whole picture.

    Args:
        detector: of a saved model.
        side: of a tile in pixels; about the size of the pictures that the model was trained on.
        overlap: of neighbouring tiles, as a share of `side`.
        whole_picture: whether the picture as a whole, made smaller, is looked at too.
        merge_threshold: overlap above which boxes of a class are one object, see `tiles.merged`.
        batch_size: tiles that go through the model together.

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
        self.detector = detector
        self.side = side
        self.overlap = overlap
        self.whole_picture = whole_picture
        self.merge_threshold = merge_threshold
        self.batch_size = batch_size

    def detect(self, image: Image.Image, threshold: float, top_k: int = 1000) -> dict[str, Tensor]:
        """`scores`, descending, `labels` and `boxes` (x1, y1, x2, y2 in the picture's pixels, within it), on the CPU.

        Args:
            image: upright RGB.
            threshold: as in `Detector.detect`.
            top_k: at most so many detections.

        Raises:
            ValueError: there would be more than `MOST_TILES` tiles.
        """
        views = list(self._views(image.width, image.height))
        found: list[dict[str, Tensor]] = []
        for start in range(0, len(views), self.batch_size):
            batch = views[start : start + self.batch_size]
            crops = [image if view == (0, 0, *image.size) else image.crop(view) for view in batch]
            for view, detections in zip(batch, self.detector.detect(crops, threshold=threshold), strict=True):
                boxes = _placed(detections["boxes"], view)
                found.append({**detections, "boxes": boxes, "cut": is_cut(boxes, view, *image.size)})
        together = {name: torch.cat([one[name] for one in found]) for name in found[0]}
        highest = together["scores"].argsort(descending=True, stable=True)[:MOST_DETECTIONS]
        together = {name: values[highest] for name, values in together.items()}
        return {name: values[:top_k] for name, values in merged(together, self.merge_threshold).items()}

    def _views(self, width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
        tiles = list(itertools.islice(tile_boxes(width, height, self.side, self.overlap), MOST_TILES + 1))
        if len(tiles) > MOST_TILES:
            tiles_of = f"{MOST_TILES} tiles of side={self.side}"
            raise ValueError(f"A picture of {width}x{height} has more than {tiles_of}: give a larger side.")
        whole = (0, 0, width, height)
        yield from tiles
        if self.whole_picture and whole not in tiles:
            yield whole


def _placed(boxes: Tensor, view: tuple[int, int, int, int]) -> Tensor:
    """Boxes of a view, clipped to it, in pixels of the picture."""
    left, top, right, bottom = view
    limits = boxes.new_tensor([right - left, bottom - top] * 2)
    return boxes.clamp(min=0).minimum(limits) + boxes.new_tensor([left, top] * 2)
