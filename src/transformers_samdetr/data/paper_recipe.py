"""The paper's augmentation, which is DETR's."""

from collections.abc import Mapping

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers.image_utils import SizeDict

from ..detection_processing import resized_size
from .seeds import random_integer

REFERENCE = 800
"""Shortest side at evaluation, to which all other sizes here belong."""
FINAL = tuple(range(480, 801, 32))
BEFORE_CROP = (400, 500, 600)
CROP = (384, 600)


class PaperRecipe:
    """Flip; in one half of the cases resize, in the other resize, crop and resize (the authors' code, SPEC).

    With the paper's `size`, shortest side 800 and longest 1333: a shortest side from 480, 512, … 800, a longest of at
    most 1333. Before that, in half of the cases: a shortest side of 400, 500 or 600, and a crop whose sides are drawn
    from 384 to 600, each at most the picture's.

    Another `size` scales all of it but the limit of the longest side: with a shortest side or a fixed square of 320,
    pictures end at 0.6 to 1 times 320, and fixed sizes keep their aspect ratio. So the final size is the one of
    evaluation, made smaller as much as in the paper.

    A crop keeps each object of which anything is left, clipped, and counts the clipped box as the area of every object.

    Args:
        size: of the image processor.
    """

    def __init__(self, size: Mapping[str, int]):
        self.size = {name: value for name, value in dict(size).items() if value}
        sides = [value for name, value in self.size.items() if name != "longest_edge"]
        shortest = min(sides) if sides else self.size["longest_edge"] * REFERENCE / 1333
        self.scale = shortest / REFERENCE

    def __call__(self, image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
        """The pipeline of an `Augmentation`: `target` has `boxes` and `labels`, and gets `area` where cropped."""
        image, target = v2.RandomHorizontalFlip()(image, target)
        boxes = target["boxes"]
        cropped = bool(torch.rand(()) >= 0.5)
        if cropped:
            side = self._scaled(_choice(BEFORE_CROP))
            image, boxes = _resize(
                image, boxes, resized_size((image.height, image.width), SizeDict(shortest_edge=side))
            )
            image, boxes = self._crop(image, boxes)
        size = resized_size((image.height, image.width), self._final_size(_choice(FINAL) / REFERENCE))
        image, boxes = _resize(image, boxes, size)
        target = {**target, "boxes": boxes}
        if cropped:
            target["area"] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return image, target

    def _final_size(self, share: float) -> SizeDict:
        return SizeDict(
            **{
                name: value if name == "longest_edge" and len(self.size) > 1 else max(1, round(value * share))
                for name, value in self.size.items()
            }
        )

    def _crop(self, image: Image.Image, boxes: tv_tensors.BoundingBoxes):
        lowest, highest = map(self._scaled, CROP)
        width, height = (random_integer(min(lowest, side), min(highest, side)) for side in image.size)
        top, left = random_integer(0, image.height - height), random_integer(0, image.width - width)
        return tuple(v2.functional.crop(item, top, left, height, width) for item in (image, boxes))

    def _scaled(self, side: int) -> int:
        return max(1, round(side * self.scale))


def _resize(image: Image.Image, boxes: tv_tensors.BoundingBoxes, size: tuple[int, int]):
    return v2.functional.resize(image, list(size)), v2.functional.resize(boxes, list(size))


def _choice(values: tuple[int, ...]) -> int:
    return values[random_integer(0, len(values) - 1)]
