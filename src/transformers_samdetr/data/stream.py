"""Streams of pictures, for sets larger than the disk: their length, and examples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from datasets import IterableDataset
from datasets.splits import SplitDict, SplitInfo
from PIL import Image

from .augment import Annotations, Augmentation
from .dataset import MAX_CORRUPT, DetectionDataset, Examples, undecoded
from .schema import AnySet


def with_length(data: IterableDataset, length: int) -> IterableDataset:
    """The stream, with its length, at least 1, where the `datasets` library keeps it: in its split's information."""
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
    """The number of pictures of the stream; where nothing gives it, a ValueError says what to do."""
    length = known_length(data)
    if length is None:
        remedy = "give their number with --stream_length N, load_detection_data(..., stream_length=N) in Python"
        raise ValueError(
            "The training stream does not say how many pictures it has, which the schedule of the learning rate needs: "
            f"{remedy}. A smaller number makes epochs of so many pictures."
        )
    return length


class DetectionStream(Examples, torch.utils.data.IterableDataset):
    """As `DetectionDataset`, of a stream: an unusable picture is left out, and nothing takes its place.

    The random numbers of a picture are a function of (seed, epoch, its id). The order is one of (seed, epoch) and the
    numbers of processes and workers, which share the stream's files. (That of `Trainer` depends on neither.)

    Args:
        data: stream in the schema of `detection_features`, perhaps shuffled. The others are those of `Examples`.
    """

    def __init__(
        self,
        data: IterableDataset,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        max_corrupt: int = MAX_CORRUPT,
    ):
        super().__init__(augmentation, seed, max_corrupt)
        self.data = undecoded(data)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the random numbers of another epoch."""
        super().set_epoch(epoch)
        self.data.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Image.Image, Annotations]]:
        for stored in self.data:
            example = self._first_usable([(stored["image_id"], stored)], stored["image_id"] % 2**63)
            if example is not None:
                yield example


def evaluation_examples(data: AnySet, max_corrupt: int = MAX_CORRUPT) -> DetectionDataset | DetectionStream:
    """Pictures as they are, in the order of the set."""
    return (DetectionStream if isinstance(data, IterableDataset) else DetectionDataset)(data, max_corrupt=max_corrupt)


class Place(NamedTuple):
    """One place of an epoch's order: its index, and the examples, as stored, to try in turn until one can be read."""

    index: int
    candidates: Sequence[Mapping[str, Any]]


class StreamedExamples(Examples, torch.utils.data.Dataset):
    """As `DetectionDataset`, with a `Place` in place of an index: who reads the stream asks for its pictures.

    So workers decode and augment, and there may be any number of them, whatever files a stream has. What a place gives
    is a function of (seed, epoch, its index).
    """

    def __getitem__(self, place: Place) -> tuple[Image.Image, Annotations]:
        """As of `DetectionDataset`; a RuntimeError if too many pictures, or all candidates, are unusable."""
        example = self._first_usable(((one["image_id"], one) for one in place.candidates), place.index)
        if example is None:
            ids = [one["image_id"] for one in place.candidates]
            raise RuntimeError(f"None of {len(ids)} pictures in a row can be used, those with the ids {ids}.")
        return example
