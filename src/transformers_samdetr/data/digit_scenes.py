"""Scenes to learn from without a download: real handwritten digits over real photographs, boxes exact.

Digits and photographs are scikit-learn's. Every scene is a function of (seed, split, index) alone.
"""

import io
import zlib

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from .schema import detection_features

DIGIT_NAMES = [str(digit) for digit in range(10)]
INK = 0.25
"""Coverage from which a pixel belongs to a digit, and so to its box."""


def build_digit_scenes(num_train: int = 1500, num_eval: int = 100, size: int = 224, seed: int = 0) -> DatasetDict:
    """Composes the set; train and validation scenes share neither a digit's picture nor a region of a photograph.

    Args:
        num_train, num_eval: number of scenes of the splits `train` and `validation`.
        size: width and height of a scene, in pixels, at least 64, below which digits would not fit.
        seed: chooses all of it.

    Returns:
        Splits in the schema of COCO sets on the Hub (see `detection_features`); boxes (x, y, width, height) in pixels,
        tight around the ink; ten classes `0` to `9`.
    """
    if size < 64:
        raise ValueError(f"size={size} is not possible: digits need scenes of at least 64 pixels.")
    composer, features, splits = _Composer(size, seed), detection_features(DIGIT_NAMES), DatasetDict()
    for split, count in {"train": num_train, "validation": num_eval}.items():
        scenes = [composer.compose(split, index) for index in range(count)]
        columns = {name: [scene[name] for scene in scenes] for name in features}
        splits[split] = Dataset.from_dict(columns, features=features)  # from_list takes no empty list
    return splits


class _Composer:
    def __init__(self, size: int, seed: int):
        try:
            from sklearn.datasets import load_digits, load_sample_images
        except ImportError as error:
            problem = "The digit scenes are made of scikit-learn's pictures"
            raise ImportError(f"{problem}: pip install scikit-learn") from error
        digits = load_digits()
        digits_with_border = np.pad(digits.images, ((0, 0), (1, 1), (1, 1)))  # strokes end before the picture does
        self.digits = (digits_with_border / 16 * 255).astype(np.uint8)  # (N, 10, 10)
        self.labels = digits.target
        self.photographs = load_sample_images().images
        self.size, self.seed = size, seed

    def compose(self, split: str, index: int) -> dict:
        """One example; its picture as PNG bytes. Ids of the two splits never meet."""
        rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])
        # a crop of a photograph, from its left three quarters for training, from the rest for validation
        photograph = self.photographs[rng.integers(len(self.photographs))]
        border = photograph.shape[1] * 3 // 4
        region = photograph[:, :border] if split == "train" else photograph[:, border:]
        side = int(rng.integers(100, min(region.shape[:2]) + 1))
        top, left = (rng.integers(length - side + 1) for length in region.shape[:2])
        crop = Image.fromarray(region[top : top + side, left : left + side])
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas = np.asarray(crop.resize((self.size, self.size), Image.Resampling.BILINEAR), dtype=np.float32)
        objects: dict[str, list] = {"id": [], "area": [], "bbox": [], "category": [], "iscrowd": []}
        for _ in range(rng.integers(1, 7)):
            self._place_digit(rng, split, index, canvas, objects)
        buffer = io.BytesIO()
        Image.fromarray(canvas.round().astype(np.uint8)).save(buffer, format="PNG")
        return {
            "image": {"bytes": buffer.getvalue(), "path": None},
            "image_id": index if split == "train" else 1_000_000 + index,
            "width": self.size,
            "height": self.size,
            "objects": objects,
        }

    def _place_digit(self, rng: np.random.Generator, split: str, index: int, canvas: np.ndarray, objects: dict) -> None:
        # every fifth digit is for validation
        digit = rng.choice(np.flatnonzero((np.arange(len(self.digits)) % 5 == 0) == (split != "train")))
        side = int(self.size * rng.uniform(0.2, 0.45))
        coverage = Image.fromarray(self.digits[digit]).resize((side, side), Image.Resampling.BICUBIC)
        coverage = coverage.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC, expand=True)
        ink = np.asarray(coverage, dtype=np.float32) / 255
        rows, columns = np.flatnonzero((ink > INK).any(1)), np.flatnonzero((ink > INK).any(0))
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        ink = np.where(ink > INK, ink, 0)
        height, width = ink.shape
        left, top = int(rng.integers(self.size - width + 1)), int(rng.integers(self.size - height + 1))
        for x, y, other_width, other_height in objects["bbox"]:
            common_width = max(min(left + width, x + other_width) - max(left, x), 0)
            common_height = max(min(top + height, y + other_height) - max(top, y), 0)
            if common_width * common_height > 0.1 * min(width * height, other_width * other_height):
                return  # a crowded place stays as it is
        patch = canvas[top : top + height, left : left + width]
        # bright ink on dark ground and the other way round, with more or less contrast
        shade = 255 if patch.mean() < 128 else 0
        color = shade + (rng.uniform(0, 255, 3) - shade) * rng.uniform(0, 0.4)
        patch += ink[..., None] * rng.uniform(0.75, 1.0) * (color - patch)
        objects["id"].append(index * 10 + len(objects["id"]) + (0 if split == "train" else 10_000_000))
        objects["area"].append(float(width * height))
        objects["bbox"].append([float(left), float(top), float(width), float(height)])
        objects["category"].append(int(self.labels[digit]))
        objects["iscrowd"].append(0)
