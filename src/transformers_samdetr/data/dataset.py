"""Examples and batches: pictures decoded and augmented, unreadable ones skipped, then the image processor."""

import itertools
import logging
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from ..pictures import UnreadablePictureError, picture_to_array, read_picture, upright
from .augment import SIZE_IS_FINAL, Annotations, Augmentation, position_seed
from .schema import AnySet, coco_annotations

NO_PICTURE = {"path": None, "bytes": None}
"""Stored in a row without a picture."""
UNUSABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What PIL and its decoders raise for files that they cannot read, and `read_example` for wrong sizes."""
logger = logging.getLogger(__name__)
MAX_CORRUPT = 10


def read_example(example: Mapping[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
    """The upright RGB picture and `{"image_id", "annotations"}`; the example's picture may be `{"path", "bytes"}`.

    One of `UNUSABLE` is raised where it cannot be read, is missing, or is not of the annotated width and height.
    """
    image = example["image"]
    image = upright(image) if isinstance(image, Image.Image) else decode_picture(image)
    if image.mode != "RGB":
        image = Image.fromarray(picture_to_array(image))
    annotated = (example["width"], example["height"])
    if image.size != annotated:
        displayed, given = ("{}x{}".format(*size) for size in (image.size, annotated))
        raise ValueError(f"the picture has {displayed} pixels as displayed, but is annotated with {given}.")
    return image, coco_annotations(example)


def decode_picture(stored: Mapping[str, Any] | None) -> Image.Image:
    """The upright picture of `{"path", "bytes"}`, or of None, in a row without one; errors are those of `UNUSABLE`."""
    content, path = (stored or NO_PICTURE)["bytes"], (stored or NO_PICTURE)["path"]
    if content is None and path is None:
        raise UnreadablePictureError("the set has neither bytes nor a path of the picture")
    if content is None and "://" in path:  # within an archive or on the Hub, where the datasets library reads
        return upright(ImageFeature().decode_example(dict(stored)))
    return read_picture(path if content is None else content, path or "the picture")


def undecoded(data: AnySet) -> AnySet:
    """The set or stream with pictures as `{"path", "bytes"}`: who shuffles or skips then holds files, not pixels."""
    return data.cast_column("image", ImageFeature(decode=False))


def picture_name(image_id: int, path: str | None = None) -> str:
    """What messages call a picture: its id, and its path where it has one."""
    return f"image {image_id}" + (f" ({path})" if path else "")


class Examples:
    """What sets and streams of examples share: reading, augmentation, and the count of unusable pictures.

    Args:
        augmentation, seed: as `make_augmentation` gives it, or None; of the random numbers.
        max_corrupt: so many different pictures may be unusable for a process and its workers.
        most: at least as many as there are pictures.
    """

    def __init__(
        self, augmentation: Augmentation | None = None, seed: int = 0, max_corrupt: int = MAX_CORRUPT, most: int = 2**63
    ):
        self.augmentation, self.seed, self.epoch, self.max_corrupt = augmentation, seed, 0, max_corrupt
        # in shared memory, so that workers count together
        self._unusable = torch.zeros(1 + min(max_corrupt, most), dtype=torch.int64).share_memory_()
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of another epoch (Accelerate's loaders call it)."""
        self.epoch = epoch

    @property
    def unusable(self) -> list[int]:
        """Keys of the pictures that turned out to be unusable so far, for this process and its workers."""
        return self._unusable[: int(self._count)].tolist()

    @property
    def skipped(self) -> list[str]:
        """Names of these pictures."""
        return [self._name(key) for key in sorted(self.unusable)]

    _name = staticmethod(picture_name)

    def _first_usable(
        self, candidates: Iterable[tuple[int, Mapping[str, Any]]], index: int
    ) -> tuple[Image.Image, Annotations] | None:
        """The first example that can be read, augmented with the random numbers of `index`; candidates have keys."""
        for key, example in candidates:
            try:
                image, annotations = read_example(example)
            except UNUSABLE as error:
                if key in self.unusable:
                    continue
                self._unusable[min(int(self._count), len(self._unusable) - 1)] = key
                self._count += 1
                count, most = int(self._count), self.max_corrupt
                name = picture_name(example["image_id"], (example["image"] or NO_PICTURE)["path"])
                if count > most:
                    names = f"{', '.join(self.skipped[:10])}. The last: {name}: {error}"
                    problem = f"{count} pictures cannot be used, more than max_corrupt={most}: {names}"
                    remedy = "Run samdetr-check, repair or remove them, or raise max_corrupt."
                    raise RuntimeError(f"{problem} {remedy}") from error
                logger.warning("Skipped %s (%d of at most %d): %s", name, count, most, error)
                continue
            if self.augmentation is None:
                return image, annotations
            return self.augmentation(image, annotations, position_seed(self.seed, self.epoch, index))
        return None


class DetectionDataset(Examples, torch.utils.data.Dataset):
    """Pictures and COCO annotations, augmented; what an index gives is a function of (seed, epoch, index) alone.

    A picture that cannot be read, or is not of the size it is annotated with, is named in the log and replaced by the
    next one that can, augmented with the random numbers of the index asked for, so that batches stay complete and all
    other examples are what they would have been. In evaluation, which counts a picture once, it is left out.

    Args:
        data: set in the schema of `detection_features`.
        augmentation, seed, max_corrupt: as in `Examples`.
    """

    def __init__(
        self, data: Dataset, augmentation: Augmentation | None = None, seed: int = 0, max_corrupt: int = MAX_CORRUPT
    ):
        if not isinstance(data, Dataset):
            raise TypeError(f"data is of type {type(data).__name__}: streams go into DetectionStream.")
        super().__init__(augmentation, seed, max_corrupt, len(data))
        self.data = data
        self._stored = undecoded(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, Annotations]:
        """The upright RGB picture and `{"image_id", "annotations"}`, boxes (x, y, width, height) in its pixels.

        A RuntimeError names the pictures where more than `max_corrupt` are unusable, or all.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} is none of 0 to {len(self) - 1}.")
        return self.example(index, index)

    def example(self, row: int, index: int) -> tuple[Image.Image, Annotations]:
        """What stands in a row, or in the next that can be read, augmented with the random numbers of `index`."""
        rows = itertools.chain(range(row, len(self)), range(row))
        candidates = ((row, self._stored[row]) for row in rows if row not in self.unusable)
        example = self._first_usable(candidates, index)
        if example is None:
            raise RuntimeError("None of the pictures can be used.")
        return example

    def _name(self, key: int) -> str:
        row = self._stored[key]
        return picture_name(row["image_id"], (row["image"] or NO_PICTURE)["path"])


class DetectionCollator:
    """Makes `pixel_values`, `pixel_mask` and `labels` of a list of examples, by the model's image processor.

    Pictures whose augmentation has chosen their size are not resized again.
    """

    def __init__(self, processor: BaseImageProcessor):
        self.processor = processor

    def __call__(self, examples: Sequence[tuple[Image.Image, Annotations]]) -> dict:
        images, annotations = zip(*examples, strict=True)
        final = [bool(entry.get(SIZE_IS_FINAL)) for entry in annotations]
        if any(final) != all(final):
            raise ValueError("A batch mixes examples whose augmentation has chosen the size with others.")
        options = {"do_resize": False} if all(final) else {}
        batch = self.processor(images=list(images), annotations=list(annotations), return_tensors="pt", **options)
        return dict(batch)
