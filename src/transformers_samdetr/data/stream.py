"""Examples of a stream, for sets larger than the disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from PIL import Image

from .augment import Annotations, Augmentation
from .batch import MAX_CORRUPT, DetectionDataset
from .examples import UNUSABLE, read_example, undecoded
from .seeds import example_seed
from .unusable import UnusablePictures


class DetectionStream(torch.utils.data.IterableDataset):
    """As `DetectionDataset`, of a stream: an unusable picture is left out, and nothing takes its place.

    For evaluation and for loops of your own. The random numbers of a picture are a function of (seed, epoch, its id).
    The order is one of (seed, epoch) and, as in all streams of the `datasets` library, of the numbers of processes and
    workers, which share the stream's files. (`Trainer` takes the bare stream, and has an order that depends on
    neither.)

    Args:
        data: stream in the schema of `detection_features`.
        augmentation, seed: as in `DetectionDataset`.
        max_corrupt: so many different pictures may be unusable for a process and its workers.
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
        data = undecoded(data)
        self.data = data.shuffle(seed=seed, buffer_size=shuffle_buffer) if shuffle_buffer else data
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.unusable = UnusablePictures(max_corrupt)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the random numbers of another epoch."""
        self.epoch = epoch
        self.data.set_epoch(epoch)

    @property
    def num_skipped(self) -> int:
        """How many different pictures turned out to be unusable so far."""
        return len(self.unusable)

    def __iter__(self) -> Iterator[tuple[Image.Image, Annotations]]:
        for example in self.data:
            try:
                image, annotations = read_example(example)
            except UNUSABLE as error:
                self.unusable.add(example, error)
                continue
            if self.augmentation is not None:
                seed = example_seed(self.seed, self.epoch, annotations["image_id"] % 2**63)
                image, annotations = self.augmentation(image, annotations, seed)
            yield image, annotations


def evaluation_examples(
    data: Dataset | IterableDataset, max_corrupt: int = MAX_CORRUPT
) -> DetectionDataset | DetectionStream:
    """Pictures as they are, in the order of the set."""
    if isinstance(data, IterableDataset):
        return DetectionStream(data, max_corrupt=max_corrupt)
    return DetectionDataset(data, max_corrupt=max_corrupt)


@dataclass(frozen=True)
class Place:
    """One place of an epoch's order, with the picture that stands there and those that may have to replace it.

    Attributes:
        index: counted from the start of the epoch.
        candidates: examples with pictures as they are stored, in the order in which they are tried.
    """

    index: int
    candidates: Sequence[Mapping[str, Any]]


class StreamedExamples(torch.utils.data.Dataset):
    """As `DetectionDataset`, with a `Place` in place of an index: who reads the stream asks for its pictures.

    So workers decode and augment, and there may be any number of them, whatever files a stream has. What a place gives
    is a function of (seed, epoch, its index).

    Args:
        augmentation, seed: as in `DetectionDataset`.
        max_corrupt: so many different pictures may be unusable for a process and its workers.
    """

    def __init__(self, augmentation: Augmentation | None = None, seed: int = 0, max_corrupt: int = MAX_CORRUPT):
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.unusable = UnusablePictures(max_corrupt)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of another epoch."""
        self.epoch = epoch

    def __getitem__(self, place: Place) -> tuple[Image.Image, Annotations]:
        """The upright RGB picture and `{"image_id", "annotations"}`, boxes (x, y, width, height) in its pixels.

        Raises:
            RuntimeError: more than `max_corrupt` pictures are unusable, or all candidates are.
        """
        image, annotations = self._read(place)
        if self.augmentation is None:
            return image, annotations
        return self.augmentation(image, annotations, example_seed(self.seed, self.epoch, place.index))

    def _read(self, place: Place) -> tuple[Image.Image, Annotations]:
        for example in place.candidates:
            try:
                return read_example(example)
            except UNUSABLE as error:
                self.unusable.add(example, error)
        ids = [example["image_id"] for example in place.candidates]
        raise RuntimeError(f"None of {len(ids)} pictures in a row can be used, those with the ids {ids}.")
