"""Streams of pictures, for sets larger than the disk: their length, unusable pictures, and examples."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset, IterableDataset
from datasets.splits import SplitDict, SplitInfo
from PIL import Image

from .augment import Annotations, Augmentation, example_seed
from .dataset import MAX_CORRUPT, NO_PICTURE, UNUSABLE, DetectionDataset, picture_name, read_example, undecoded

logger = logging.getLogger(__name__)


def with_length(data: IterableDataset, length: int) -> IterableDataset:
    """The stream, with its length where the `datasets` library keeps it: in the information about its split.

    Raises:
        ValueError: the length is below 1.
    """
    if length < 1:
        raise ValueError(f"stream_length={length} is not possible: it counts the pictures of an epoch, at least 1.")
    name = str(data.split or "train")
    data.info.splits = SplitDict({name: SplitInfo(name, num_examples=length)})
    return data


def known_length(data: IterableDataset) -> int | None:
    """The number of pictures that the stream's information gives, or None."""
    split = (data.info.splits or {}).get(str(data.split or "train"))
    return split.num_examples if split is not None and split.num_examples else None


def require_length(data: IterableDataset) -> int:
    """The number of pictures of the stream.

    Raises:
        ValueError: nothing gives it; the message says what to do.
    """
    length = known_length(data)
    if length is None:
        raise ValueError(
            "The training stream does not say how many pictures it has, which the schedule of the learning rate needs: "
            "give their number with --stream_length N, load_detection_data(..., stream_length=N) in Python. A smaller "
            "number makes epochs of so many pictures."
        )
    return length


def rows_of_parquet(files: Iterable[str]) -> int | None:
    """Rows of files on this machine, from their last few bytes alone; None if one of them is something else."""
    files = list(map(str, files))
    if not all(file.endswith(".parquet") and "://" not in file for file in files):
        return None
    return sum(pq.read_metadata(file).num_rows for file in files)


class UnusablePictures:
    """Counts by image id, in memory that a process shares with its workers.

    Args:
        most: so many different pictures may be unusable.
    """

    def __init__(self, most: int):
        self.most = most
        self._ids = torch.zeros(most + 1, dtype=torch.int64).share_memory_()
        self._count = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Number of different pictures so far."""
        return int(self._count)

    def add(self, example: Mapping[str, Any], error: Exception) -> None:
        """Names a picture in the log, unless it was before.

        Args:
            example: in the schema of `detection_features`, the picture as `{"path", "bytes"}`.
            error: why it cannot be used.

        Raises:
            RuntimeError: these are too many.
        """
        count = len(self)
        if example["image_id"] in self._ids[:count].tolist():
            return
        self._ids[min(count, self.most)] = example["image_id"]
        self._count += 1
        name = picture_name(example["image_id"], example["image"] or NO_PICTURE)
        if len(self) > self.most:
            raise RuntimeError(
                f"{len(self)} pictures cannot be used, more than max_corrupt={self.most}. The last: {name}: {error} "
                "Remove them from the set, or raise max_corrupt."
            ) from error
        logger.warning("Skipped %s (%d of at most %d): %s", name, len(self), self.most, error)


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
