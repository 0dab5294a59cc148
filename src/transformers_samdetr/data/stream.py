"""Examples of a stream, for sets larger than the disk."""

import logging
from collections.abc import Iterator

import torch
from datasets import Image as ImageFeature
from datasets import IterableDataset
from PIL import Image

from .augment import Annotations, Augmentation
from .batch import MAX_CORRUPT
from .examples import UNUSABLE, read_example
from .seeds import example_seed

logger = logging.getLogger(__name__)


class DetectionStream(torch.utils.data.IterableDataset):
    """As `DetectionDataset`, of a stream: an unusable picture is left out, and nothing takes its place.

    The random numbers of a picture are a function of (seed, epoch, its id). The order is one of (seed, epoch) and, as
    in all streams of the `datasets` library, of the numbers of processes and workers, which share the stream's files.

    Args:
        data: stream in the schema of `detection_features`.
        augmentation, seed, max_corrupt: as in `DetectionDataset`.
        shuffle_buffer: so many pictures are held, as files, to mix the order; 0 keeps it.
    """

    def __init__(
        self,
        data: IterableDataset,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        max_corrupt: int = MAX_CORRUPT,
        shuffle_buffer: int = 0,
    ):
        data = data.cast_column("image", ImageFeature(decode=False))  # decoded here, where errors are counted
        self.data = data.shuffle(seed=seed, buffer_size=shuffle_buffer) if shuffle_buffer else data
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.max_corrupt = max_corrupt
        self._unusable = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the random numbers of another epoch."""
        self.epoch = epoch
        self.data.set_epoch(epoch)

    @property
    def num_skipped(self) -> int:
        """How often a picture turned out to be unusable so far, in all epochs."""
        return int(self._unusable)

    def __iter__(self) -> Iterator[tuple[Image.Image, Annotations]]:
        for example in self.data:
            try:
                image, annotations = read_example(example)
            except UNUSABLE as error:
                self._report(example, error)
                continue
            if self.augmentation is not None:
                seed = example_seed(self.seed, self.epoch, annotations["image_id"] % 2**63)
                image, annotations = self.augmentation(image, annotations, seed)
            yield image, annotations

    def _report(self, example: dict, error: Exception) -> None:
        self._unusable += 1
        name = f"image {example['image_id']}" + (f" ({example['image']['path']})" if example["image"]["path"] else "")
        if self.num_skipped > self.max_corrupt:
            raise RuntimeError(
                f"{self.num_skipped} pictures cannot be used, more than max_corrupt={self.max_corrupt}. The last: "
                f"{name}: {error} Remove them from the set, or raise max_corrupt."
            ) from error
        logger.warning("Skipped %s (%d of at most %d): %s", name, self.num_skipped, self.max_corrupt, error)
