"""Augmentation by name or by a user's own pipeline; boxes, areas, crowd flags and ids stay with their objects."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from .box_formats import boxes_to_xywh, check_box_format, xywh_to_boxes
from .paper_recipe import PaperRecipe
from .seeds import random_integer, seeded

Annotations = dict[str, Any]
Pipeline = Callable[..., Any]
SIZE_IS_FINAL = "size_is_final"
"""Key of an example's annotations: the augmentation chose the picture's size, and nothing may resize it again."""
IMAGENET_MEAN = (124, 116, 104)


def strong() -> v2.Transform:
    """SSD's augmentation (Liu et al. 2016) in a milder form: colours, zoom out, crops around objects, flip.

    Unlike SSD's, colours keep their hue, which classes often depend on, and crops are not so small.
    """
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.3)]),
            v2.RandomZoomOut(fill=IMAGENET_MEAN, side_range=(1.0, 2.0), p=0.3),
            v2.RandomIoUCrop(min_scale=0.5, sampler_options=[0.3, 0.5, 0.7, 0.9, 1.0, 1.0]),
            v2.SanitizeBoundingBoxes(),
            v2.RandomHorizontalFlip(),
        ]
    )


class RandomWindow:
    """In half of the cases a window of at least three quarters of each side.

    Objects that keep less than a third of their area are left out.
    """

    shortest = 0.75
    visible = 1 / 3

    def __call__(self, image: Image.Image, target: dict) -> tuple[Image.Image, dict]:
        """The pipeline of an `Augmentation`."""
        if torch.rand(()) < 0.5:
            return image, target
        width, height = (random_integer(max(1, round(self.shortest * side)), side) for side in image.size)
        top, left = random_integer(0, image.height - height), random_integer(0, image.width - width)
        before = target["boxes"]
        image, boxes = (v2.functional.crop(item, top, left, height, width) for item in (image, before))
        keep = _areas(boxes) >= self.visible * _areas(before)
        return image, {**target, "boxes": tv_tensors.wrap(boxes[keep], like=boxes), "labels": target["labels"][keep]}


def _areas(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


AUGMENTATIONS = ("none", "flip", "crop", "paper", "strong")


def make_augmentation(augmentation: str | Pipeline | None, size: Mapping[str, int] | None = None) -> "Augmentation":
    """An augmentation for `DetectionDataset`.

    Args:
        augmentation: `"none"`; `"flip"`, left to right in half of the cases; `"crop"`, which adds a `RandomWindow`;
            `"paper"`, see `PaperRecipe`; `"strong"` for small sets, which costs time on the CPU; or a pipeline of your
            own, of `torchvision.transforms.v2` or albumentations.
        size: the image processor's `size`, which `"paper"` needs.

    Raises:
        ValueError: there is no augmentation of this name, or `"paper"` has no size.
    """
    if callable(augmentation):
        return Augmentation(augmentation)
    if augmentation == "paper":
        if size is None:
            raise ValueError("augmentation='paper' chooses picture sizes: give the image processor's size=.")
        return Augmentation(PaperRecipe(size), decides_size=True)
    if augmentation in ("none", None):
        return Augmentation(None)
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation={augmentation!r} is none of {', '.join(AUGMENTATIONS)}, and no pipeline.")
    if augmentation == "strong":
        return Augmentation(strong())
    flip = v2.RandomHorizontalFlip()
    return Augmentation(flip if augmentation == "flip" else v2.Compose([flip, RandomWindow()]))


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
        self.pipeline = pipeline
        self.decides_size = decides_size
        self._is_albumentations = type(pipeline).__module__.split(".")[0] == "albumentations"
        if self._is_albumentations and "bboxes" not in getattr(pipeline, "processors", {}):
            raise ValueError(
                "The albumentations pipeline would leave boxes where they were: build it as "
                "A.Compose([...], bbox_params=A.BboxParams(format='coco', label_fields=['labels']))."
            )

    def __call__(self, image: Image.Image, annotations: Annotations, seed: int) -> tuple[Image.Image, Annotations]:
        """A changed picture with its annotations.

        Args:
            image: upright RGB picture.
            annotations: `{"image_id", "annotations": [{"bbox": (x, y, width, height) in pixels, "area", …}]}`.
            seed: all randomness follows from it.

        Raises:
            ValueError: the pipeline returned boxes without their labels, or a picture that is not of 8 bits.
        """
        if self.pipeline is None:
            return image, annotations
        objects = annotations["annotations"]
        boxes = np.array([entry["bbox"] for entry in objects], dtype=np.float64).reshape(-1, 4)
        corners = _clipped(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), image.size)
        rows = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1))
        before = corners.copy()
        with seeded(seed):
            apply = self._albumentations if self._is_albumentations else self._torchvision
            image, corners, rows, areas = apply(image, corners[rows], rows, seed)
        corners = _clipped(corners, image.size)
        sides = corners[:, 2:] - corners[:, :2]
        changed = []
        for position, row in enumerate(rows):
            if (sides[position] <= 0).any():
                continue
            entry = {**objects[row], "bbox": [*corners[position, :2].tolist(), *sides[position].tolist()]}
            if areas is not None:
                entry["area"] = float(areas[position])
            elif entry.get("area") is not None:
                entry["area"] *= sides[position].prod() / (before[row, 2:] - before[row, :2]).prod()
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
            raise ValueError(
                f"The augmentation returned {len(boxes)} boxes but {len(labels)} labels: drop objects with "
                "v2.SanitizeBoundingBoxes, which drops both."
            )
        boxes = v2.functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
        areas = target.get("area")
        return _to_picture(image), boxes.double().numpy().reshape(-1, 4), labels.numpy().astype(int), areas

    def _albumentations(self, image, corners, rows, seed):
        if hasattr(self.pipeline, "set_random_seed"):  # older releases draw from NumPy's and Python's generators
            self.pipeline.set_random_seed(seed % 2**32)
        parameters = self.pipeline.processors["bboxes"].params
        box_format, fields = check_box_format(parameters.format), list(parameters.label_fields or ())
        size = np.array([image.size])
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        boxes = xywh_to_boxes(xywh, box_format, size)
        if not fields:  # then further columns travel with the boxes
            boxes = np.concatenate([boxes, rows[:, None]], axis=1)
        result = self.pipeline(image=np.array(image), bboxes=boxes, **{name: rows.tolist() for name in fields})
        image = _to_picture(result["image"])
        boxes = np.array(result["bboxes"], dtype=np.float64).reshape(-1, boxes.shape[1])
        rows = np.array(result[fields[0]] if fields else boxes[:, 4]).astype(int)
        xywh = boxes_to_xywh(boxes[:, :4], box_format, np.array([image.size]))
        return image, np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), rows, None


def _clipped(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return corners.clip(0, np.tile(np.array(size, dtype=np.float64), 2))


def _to_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if image.dtype not in (torch.uint8, np.uint8):
        raise ValueError(
            f"The augmentation returned a picture of type {image.dtype}: return 8 bits, and leave scaling and "
            "normalising to the image processor."
        )
    return v2.functional.to_pil_image(image)
