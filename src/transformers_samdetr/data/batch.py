"""Examples to batches: simple augmentation with boxes aligned, then the image processor."""

import random

import torch
from datasets import Dataset
from PIL import Image, ImageOps
from transformers.image_processing_utils import BaseImageProcessor

from .schema import coco_annotations

ZOOM = (0.75, 1.0)
"""Range of the side of a random crop, as a share of the picture."""


class DetectionDataset(torch.utils.data.Dataset):
    """Pictures and COCO annotations, in training flipped and cropped at random.

    The random numbers of an example are a function of (seed, epoch, index), not of workers or processes. Boxes are
    (x, y, width, height) in pixels.
    """

    def __init__(self, data: Dataset, augment: bool = False, seed: int = 0):
        self.data = data
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of another epoch (Accelerate's loaders call it)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict]:
        example = self.data[index]
        image = ImageOps.exif_transpose(example["image"]).convert("RGB")
        annotations = coco_annotations(example)
        if self.augment:
            # a string seeds alike in every process, which a tuple's hash need not
            rng = random.Random(f"{self.seed}-{self.epoch}-{index}")
            if rng.random() < 0.5:
                image, annotations = flip(image, annotations)
            if rng.random() < 0.5:
                image, annotations = crop(image, annotations, rng)
        return image, annotations


def flip(image: Image.Image, annotations: dict) -> tuple[Image.Image, dict]:
    """Mirrors a picture and its boxes left to right."""
    mirrored = [
        {**a, "bbox": [image.width - a["bbox"][0] - a["bbox"][2], *a["bbox"][1:]]} for a in annotations["annotations"]
    ]
    return ImageOps.mirror(image), {**annotations, "annotations": mirrored}


def crop(image: Image.Image, annotations: dict, rng: random.Random) -> tuple[Image.Image, dict]:
    """A random window of the picture; objects that keep less than a third of their area are left out."""
    width, height = (max(1, round(side * rng.uniform(*ZOOM))) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    kept = []
    for annotation in annotations["annotations"]:
        x, y, w, h = annotation["bbox"]
        x1, y1 = max(x - left, 0), max(y - top, 0)
        x2, y2 = min(x + w - left, width), min(y + h - top, height)
        share = max(x2 - x1, 0) * max(y2 - y1, 0) / max(w * h, 1e-9)
        if share >= 1 / 3:
            kept.append({**annotation, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": annotation["area"] * share})
    return image.crop((left, top, left + width, top + height)), {**annotations, "annotations": kept}


class DetectionCollator:
    """Makes `pixel_values`, `pixel_mask` and `labels` of a list of examples, and keeps their original sizes."""

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, examples: list[tuple[Image.Image, dict]]) -> dict:
        images, annotations = zip(*examples, strict=True)
        batch = self.processor(images=list(images), annotations=list(annotations), return_tensors="pt")
        return dict(batch)
