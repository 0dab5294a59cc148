"""Augmentation by name or by a user's own pipeline, random in (seed, epoch, index) alone."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import v2
from transformers.image_utils import SizeDict

from ..image_processing_sam_detr import resized_size
from .box_formats import boxes_to_xywh, check_box_format, xywh_to_boxes

Annotations = dict[str, Any]
Pipeline = Callable[..., Any]
SIZE_IS_FINAL = "size_is_final"
"""Key of an example's annotations: the augmentation chose the picture's size, and nothing may resize it again."""
# repeated in training/recipes.py, which is read before PyTorch is imported
AUGMENTATIONS = ("none", "flip", "crop", "paper", "strong")
REFERENCE = 800
"""Shortest side at evaluation, to which all other sizes here belong."""
FINAL = tuple(range(480, 801, 32))
BEFORE_CROP = (400, 500, 600)
CROP = (384, 600)


def position_seed(*position: int) -> int:
    """The seed of a position, such as (seed, epoch, index) of an example, in [0, 2^63); neighbours' are unrelated.

    >>> position_seed(0, 1, 2) == position_seed(0, 1, 2), position_seed(0, 1, 2) == position_seed(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's random numbers on the CPU start from `seed` within, and go on as before after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the accelerators' generators alone
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _random_integer(lowest: int, highest: int) -> int:
    return int(torch.randint(lowest, highest + 1, ()))  # both ends included


def _random_crop(image: Image.Image, boxes: tv_tensors.BoundingBoxes, limits: Callable[[int], tuple[int, int]]):
    """A crop anywhere, of a width and a height drawn between the limits for the picture's."""
    width, height = (_random_integer(*limits(side)) for side in image.size)
    top, left = _random_integer(0, image.height - height), _random_integer(0, image.width - width)
    return tuple(v2.functional.crop(item, top, left, height, width) for item in (image, boxes))


def random_window(image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
    """In half of the cases a window of at least three quarters of each side; a pipeline of an `Augmentation`.

    Objects that keep less than a third of their area are left out.
    """
    if torch.rand(()) < 0.5:
        return image, target
    before = target["boxes"]
    image, boxes = _random_crop(image, before, lambda side: (max(1, round(0.75 * side)), side))
    keep = box_area(boxes) >= box_area(before) / 3
    return image, {**target, "boxes": tv_tensors.wrap(boxes[keep], like=boxes), "labels": target["labels"][keep]}


def make_augmentation(augmentation: str | Pipeline | None, size: Mapping[str, int] | None = None) -> "Augmentation":
    """An augmentation for `DetectionDataset`.

    Args:
        augmentation: `"none"`; `"flip"`, left to right in half of the cases; `"crop"`, which adds a `random_window`;
            `"paper"`, see `PaperAugmentation`; `"strong"` for small sets, SSD's (Liu et al. 2016) in a milder form
            (colours but no hue, zoom out, crops around objects, flip), which costs time on the CPU; or a pipeline of
            your own, of `torchvision.transforms.v2` or albumentations. Other names are a ValueError.
        size: the image processor's `size`, which `"paper"` needs.
    """
    augmentation = "none" if augmentation is None else augmentation
    if callable(augmentation):
        return Augmentation(augmentation)
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation={augmentation!r} is none of {', '.join(AUGMENTATIONS)}, and no pipeline.")
    if augmentation == "paper":
        if size is None:
            raise ValueError("augmentation='paper' chooses picture sizes: give the image processor's size=.")
        return Augmentation(PaperAugmentation(size), decides_size=True)
    flip = v2.RandomHorizontalFlip()
    strong = (
        v2.RandomApply([v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.3)]),
        v2.RandomZoomOut(fill=(124, 116, 104), side_range=(1.0, 2.0), p=0.3),  # ImageNet's mean
        v2.RandomIoUCrop(min_scale=0.5, sampler_options=[0.3, 0.5, 0.7, 0.9, 1.0, 1.0]),
        v2.SanitizeBoundingBoxes(),
        flip,
    )
    parts = {"none": (), "flip": (flip,), "crop": (flip, random_window), "strong": strong}[augmentation]
    return Augmentation(v2.Compose(parts) if parts else None)


class Augmentation:
    """Applies a pipeline to a picture and its COCO annotations.

    Boxes are clipped to the picture before and after, and an object without any area left is dropped with all that
    belongs to it. An object's area changes as its box's does, unless the pipeline says what it is. A pipeline of
    torchvision is called with the picture and `{"boxes": tv_tensors.BoundingBoxes (x1, y1, x2, y2), "labels": (T,)}`,
    where the labels are the objects' positions in the list, so that transforms which drop objects drop both.

    Args:
        pipeline: of `torchvision.transforms.v2`, an `albumentations.Compose` with `bbox_params`, or None.
        decides_size: nothing may resize the pictures afterwards.
    """

    def __init__(self, pipeline: Pipeline | None, decides_size: bool = False):
        self.pipeline, self.decides_size = pipeline, decides_size
        self._is_albumentations = type(pipeline).__module__.split(".")[0] == "albumentations"
        if self._is_albumentations and "bboxes" not in getattr(pipeline, "processors", {}):
            complete = "A.Compose([...], bbox_params=A.BboxParams(format='coco', label_fields=['labels']))"
            raise ValueError(f"The albumentations pipeline would leave boxes where they were: build it as {complete}.")

    def __call__(self, image: Image.Image, annotations: Annotations, seed: int) -> tuple[Image.Image, Annotations]:
        """A changed upright RGB picture with its COCO annotations; all randomness follows from the seed.

        A ValueError says that the pipeline returned boxes without their labels, or a picture that is not of 8 bits.
        """
        if self.pipeline is None:
            return image, annotations
        objects = annotations["annotations"]
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
        before = xywh_to_boxes(boxes, "xyxy", image.size).clip(0, image.size * 2)
        rows = np.flatnonzero((before[:, 2:] > before[:, :2]).all(axis=1))
        with seeded(seed):
            apply = self._albumentations if self._is_albumentations else self._torchvision
            image, corners, rows, areas = apply(image, before[rows], rows, seed)
        boxes, changed = boxes_to_xywh(corners.clip(0, image.size * 2), "xyxy", image.size), []
        for position in np.flatnonzero((boxes[:, 2:] > 0).all(axis=1)):
            row, box = rows[position], boxes[position]
            entry = {**objects[row], "bbox": box.tolist()}
            if areas is not None:
                entry["area"] = float(areas[position])
            elif entry.get("area") is not None:
                entry["area"] *= box[2:].prod() / (before[row, 2:] - before[row, :2]).prod()
            changed.append(entry)
        annotations = {**annotations, "annotations": changed}
        return image, annotations | {SIZE_IS_FINAL: True} if self.decides_size else annotations

    def _torchvision(self, image, corners, rows, seed):
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(corners).float(), format="XYXY", canvas_size=(image.height, image.width)
        )
        image, target = self.pipeline(image, {"boxes": boxes, "labels": torch.from_numpy(rows)})
        boxes, labels = target["boxes"], target["labels"]
        if len(boxes) != len(labels):
            problem = f"The augmentation returned {len(boxes)} boxes but {len(labels)} labels"
            raise ValueError(f"{problem}: drop objects with v2.SanitizeBoundingBoxes, which drops both.")
        boxes = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        corners, rows = boxes.double().numpy().reshape(-1, 4), labels.numpy().astype(int)
        return _to_picture(image), corners, rows, target.get("area")

    def _albumentations(self, image, corners, rows, seed):
        if hasattr(self.pipeline, "set_random_seed"):  # older releases draw from NumPy's and Python's generators
            self.pipeline.set_random_seed(seed % 2**32)
        parameters = self.pipeline.processors["bboxes"].params
        box_format, fields = check_box_format(parameters.format), list(parameters.label_fields or ())
        boxes = xywh_to_boxes(boxes_to_xywh(corners, "xyxy", image.size), box_format, np.array([image.size]))
        if not fields:  # then further columns travel with the boxes
            boxes = np.concatenate([boxes, rows[:, None]], axis=1)
        result = self.pipeline(image=np.array(image), bboxes=boxes, **{name: rows.tolist() for name in fields})
        image = _to_picture(result["image"])
        boxes = np.array(result["bboxes"], dtype=np.float64).reshape(-1, boxes.shape[1])
        rows = np.array(result[fields[0]] if fields else boxes[:, 4]).astype(int)
        xywh = boxes_to_xywh(boxes[:, :4], box_format, np.array([image.size]))
        return image, xywh_to_boxes(xywh, "xyxy", image.size), rows, None


def _to_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if image.dtype not in (torch.uint8, np.uint8):
        problem = f"The augmentation returned a picture of type {image.dtype}"
        raise ValueError(f"{problem}: return 8 bits, and leave scaling and normalising to the image processor.")
    return v2.functional.to_pil_image(image)


class PaperAugmentation:
    """Flip; in one half of the cases resize, in the other resize, crop and resize (the authors' code).

    With the paper's `size`, shortest side 800 and longest 1333: a shortest side from 480, 512, … 800, a longest of at
    most 1333. Before that, in half of the cases: a shortest side of 400, 500 or 600, and a crop whose sides are drawn
    from 384 to 600, each at most the picture's.

    Another `size` scales all of it but the limit of the longest side: with a shortest side or a fixed square of 320,
    pictures end at 0.6 to 1 times 320, and fixed sizes keep their aspect ratio. A crop keeps each object of which
    anything is left, clipped, and counts the clipped box as the area of every object.
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
            sides = (_choice(BEFORE_CROP), *CROP)
            before, lowest, highest = (max(1, round(side * self.scale)) for side in sides)
            image, boxes = _resize(image, boxes, SizeDict(shortest_edge=before))
            image, boxes = _random_crop(image, boxes, lambda side: (min(lowest, side), min(highest, side)))
        share = _choice(FINAL) / REFERENCE
        final = {
            name: value if name == "longest_edge" and len(self.size) > 1 else max(1, round(value * share))
            for name, value in self.size.items()
        }
        image, boxes = _resize(image, boxes, SizeDict(**final))
        return image, {**target, "boxes": boxes} | ({"area": box_area(boxes)} if cropped else {})


def _resize(image: Image.Image, boxes: tv_tensors.BoundingBoxes, size: SizeDict):
    pixels = list(resized_size((image.height, image.width), size))
    return v2.functional.resize(image, pixels), v2.functional.resize(boxes, pixels)


def _choice(values: tuple[int, ...]) -> int:
    return values[_random_integer(0, len(values) - 1)]
