"""Scenes to learn from without a download: real handwritten digits over real photographs, boxes exact.

Digits and photographs are scikit-learn's. Every scene is a function of (seed, split, index) alone. Train and validation
scenes share neither a digit's picture nor a region of a photograph.
"""

import io
import zlib

import numpy as np
from datasets import Dataset, DatasetDict, Features
from PIL import Image

from .schema import detection_features

DIGIT_NAMES = [str(digit) for digit in range(10)]
INK = 0.25
"""Coverage from which a pixel belongs to a digit, and so to its box."""


def build_digit_scenes(num_train: int = 1500, num_eval: int = 100, size: int = 224, seed: int = 0) -> DatasetDict:
    """Composes the set.

    Args:
        num_train: number of scenes of the split `train`.
        num_eval: number of scenes of the split `validation`.
        size: width and height of a scene, in pixels.
        seed: chooses all of it.

    Returns:
        Splits in the schema of COCO sets on the Hub (see `detection_features`); boxes (x, y, width, height) in pixels,
        tight around the ink; ten classes `0` to `9`.

    Raises:
        ValueError: a size below 64 pixels, in which digits would not fit.
        ImportError: scikit-learn is not installed.
    """
    if size < 64:
        raise ValueError(f"size={size} is not possible: digits need scenes of at least 64 pixels.")
    composer = _Composer(size, seed)
    features = detection_features(DIGIT_NAMES)
    splits = {"train": num_train, "validation": num_eval}
    return DatasetDict(
        {
            split: _as_set([composer.compose(split, index) for index in range(count)], features)
            for split, count in splits.items()
        }
    )


def _as_set(scenes: list[dict], features: Features) -> Dataset:
    """`Dataset.from_list`, which takes no empty list."""
    return Dataset.from_dict({name: [scene[name] for scene in scenes] for name in features}, features=features)


class _Composer:
    def __init__(self, size: int, seed: int):
        try:
            from sklearn.datasets import load_digits, load_sample_images
        except ImportError as error:
            raise ImportError(
                "The digit scenes are made of scikit-learn's pictures: pip install scikit-learn"
            ) from error
        digits = load_digits()
        digits_with_border = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))  # strokes end before the picture does
        self.digits = (digits_with_border / 16 * 255).astype(np.uint8)  # (N, 10, 10)
        self.labels = digits.target
        self.photographs = load_sample_images().images
        self.size = size
        self.seed = seed

    def compose(self, split: str, index: int) -> dict:
        """One example; its picture as PNG bytes."""
        rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])
        canvas = self._background(rng, split)
        objects: dict[str, list] = {"id": [], "area": [], "bbox": [], "category": [], "iscrowd": []}
        for _ in range(rng.integers(1, 7)):
            self._place_digit(rng, split, index, canvas, objects)
        buffer = io.BytesIO()
        Image.fromarray(canvas.round().astype(np.uint8)).save(buffer, format="PNG")
        # ids of the two splits never meet
        image_id = index if split == "train" else 1_000_000 + index
        return {
            "image": {"bytes": buffer.getvalue(), "path": None},
            "image_id": image_id,
            "width": self.size,
            "height": self.size,
            "objects": objects,
        }

    def _background(self, rng: np.random.Generator, split: str) -> np.ndarray:
        """A crop of a photograph, from its left three quarters for training, from the rest for validation."""
        photograph = self.photographs[rng.integers(len(self.photographs))]
        border = photograph.shape[1] * 3 // 4
        region = photograph[:, :border] if split == "train" else photograph[:, border:]
        side = int(rng.integers(100, min(region.shape[:2]) + 1))
        top = rng.integers(region.shape[0] - side + 1)
        left = rng.integers(region.shape[1] - side + 1)
        crop = Image.fromarray(region[top : top + side, left : left + side])
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(crop.resize((self.size, self.size), Image.Resampling.BILINEAR), dtype=np.float32)

    def _place_digit(self, rng: np.random.Generator, split: str, index: int, canvas: np.ndarray, objects: dict) -> None:
        # every fifth digit is for validation
        choices = np.flatnonzero((np.arange(len(self.digits)) % 5 == 0) == (split != "train"))
        digit = rng.choice(choices)
        side = int(self.size * rng.uniform(0.2, 0.45))
        coverage = Image.fromarray(self.digits[digit]).resize((side, side), Image.Resampling.BICUBIC)
        coverage = coverage.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
        ink = np.asarray(coverage, dtype=np.float32) / 255
        rows, columns = np.flatnonzero((ink > INK).any(1)), np.flatnonzero((ink > INK).any(0))
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        ink = np.where(ink > INK, ink, 0)
        height, width = ink.shape
        left, top = int(rng.integers(self.size - width + 1)), int(rng.integers(self.size - height + 1))
        box = [float(left), float(top), float(width), float(height)]
        if any(_overlap(box, other) > 0.1 for other in objects["bbox"]):
            return  # a crowded place stays as it is
        patch = canvas[top : top + height, left : left + width]
        # bright ink on dark ground and the other way round, with more or less contrast
        shade = 255 if patch.mean() < 128 else 0
        color = shade + (rng.uniform(0, 255, 3) - shade) * rng.uniform(0, 0.4)
        patch += ink[..., None] * rng.uniform(0.75, 1.0) * (color - patch)
        objects["id"].append(index * 10 + len(objects["id"]) + (0 if split == "train" else 10_000_000))
        objects["area"].append(float(width * height))
        objects["bbox"].append(box)
        objects["category"].append(int(self.labels[digit]))
        objects["iscrowd"].append(0)


def _overlap(box: list[float], other: list[float]) -> float:
    """Share of the smaller box that two (x, y, width, height) boxes have in common."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / min(box[2] * box[3], other[2] * other[3])
