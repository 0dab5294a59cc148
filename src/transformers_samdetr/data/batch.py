"""Examples to batches: pictures read, unreadable ones passed over, augmented, then the image processor."""

import logging
from collections.abc import Sequence

import torch
from datasets import Dataset
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor

from .augment import SIZE_IS_FINAL, Annotations, Augmentation
from .examples import UNUSABLE, example_name, read_example, undecoded
from .seeds import example_seed

logger = logging.getLogger(__name__)
MAX_CORRUPT = 10


class DetectionDataset(torch.utils.data.Dataset):
    """Pictures and COCO annotations, augmented; what an index gives is a function of (seed, epoch, index) alone.

    A picture that cannot be read, or is not of the size it is annotated with, is named in the log and replaced by the
    next one that can, augmented with the random numbers of the index asked for. So batches stay complete on every
    process, and all other examples are what they would have been. In evaluation, which counts a picture once, it is
    left out.

    Args:
        data: set in the schema of `detection_features`.
        augmentation: as `make_augmentation` gives it, or None.
        seed: chooses the random numbers.
        max_corrupt: so many different pictures of this set may be unusable for a process and its workers.
    """

    def __init__(
        self, data: Dataset, augmentation: Augmentation | None = None, seed: int = 0, max_corrupt: int = MAX_CORRUPT
    ):
        if not isinstance(data, Dataset):
            raise TypeError(f"data is of type {type(data).__name__}: streams go into DetectionStream.")
        self.data = data
        self._stored = undecoded(data)
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.max_corrupt = max_corrupt
        # in shared memory, so that workers count together
        self._unusable = torch.zeros(len(data), dtype=torch.bool).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of another epoch (Accelerate's loaders call it)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, Annotations]:
        """The upright RGB picture and `{"image_id", "annotations"}`, boxes (x, y, width, height) in its pixels.

        Raises:
            IndexError: there is no such example, which also ends a loop over the set.
            RuntimeError: more than `max_corrupt` pictures are unusable, or all are; the message names them.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index={index} is none of 0 to {len(self) - 1}.")
        image, annotations = self._read(index)
        if self.augmentation is None:
            return image, annotations
        return self.augmentation(image, annotations, example_seed(self.seed, self.epoch, index))

    @property
    def skipped(self) -> list[str]:
        """Names of the pictures that turned out to be unusable so far, for this process and its workers."""
        return [self._name(row) for row in self._unusable.nonzero().flatten().tolist()]

    def _read(self, index: int) -> tuple[Image.Image, Annotations]:
        for step in range(len(self)):
            row = (index + step) % len(self)
            if self._unusable[row]:
                continue
            try:
                return read_example(self._stored[row])
            except UNUSABLE as error:
                self._unusable[row] = True
                self._report(row, error)
        raise RuntimeError("None of the pictures can be used.")

    def _report(self, row: int, error: Exception) -> None:
        count = int(self._unusable.sum())
        if count > self.max_corrupt:
            raise RuntimeError(
                f"{count} pictures cannot be used, more than max_corrupt={self.max_corrupt}: "
                f"{', '.join(self.skipped[:10])}. The last: {error} Run scripts/check_dataset.py, repair or remove "
                "them, or raise max_corrupt."
            ) from error
        logger.warning("Skipped %s (%d of at most %d): %s", self._name(row), count, self.max_corrupt, error)

    def _name(self, row: int) -> str:
        return example_name(self.data, row)


class DetectionCollator:
    """Makes `pixel_values`, `pixel_mask` and `labels` of a list of examples.

    Pictures whose augmentation has chosen their size are not resized again.

    Args:
        processor: the model's image processor.
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
