"""Which images a step sees: a function of (seed, epoch, batch size) alone, not of processes, workers or resumes."""

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from PIL import Image
from torch.utils.data import Sampler
from transformers.image_processing_utils import BaseImageProcessor

from ..data.augment import Annotations, make_augmentation, position_seed
from ..data.dataset import DetectionDataset, undecoded
from ..data.schema import AnySet
from ..data.stream import Place, StreamedExamples, require_length
from .balance import repeat_factors
from .recipes import Recipe

FEW_FILES = 64
"""A stream of fewer files is shuffled by row groups, where it has any."""
SPARES = 8
"""Number of following pictures that may take the place of an unusable one."""
LIBRARY = logging.getLogger("datasets.iterable_dataset")


def _no_buffer(record: logging.LogRecord) -> bool:
    """The library warns that the content of a buffer is lost, also of the buffer of one picture, which holds none."""
    return "shuffle buffer" not in record.getMessage()


class WindowOrder:
    """The images of every *window* of every epoch: of one optimizer step, over all processes and accumulation steps.

    `slots` equal micro-batches make a window of `batch_size` images, one for each of P processes and A accumulation
    steps; process r takes slot a·P + r as its a-th. So one process with two steps sees what two processes with one see.
    """

    def __init__(self, num_images: int, batch_size: int, slots: int = 1, seed: int = 0):
        if num_images < 1:
            raise ValueError("num_images=0 is not possible: the training set is empty.")
        if batch_size < 1 or slots < 1 or batch_size % slots:
            remedy = "must be a multiple of processes times accumulation steps"
            raise ValueError(f"batch_size={batch_size} {remedy}, {slots} here.")
        self.num_images, self.batch_size, self.slots, self.seed = num_images, batch_size, slots, seed
        self._permutation: tuple[int, list[int]] | None = None  # of the epoch that was asked for last

    @property
    def steps_per_epoch(self) -> int:
        """Windows of an epoch; the last one may be smaller."""
        return -(-self.num_images // self.batch_size)

    def permutation(self, epoch: int) -> Sequence[int]:
        """All images in the order of an epoch (epochs count from 0), each as often as it comes."""
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed(position_seed(self.seed, epoch))
            self._permutation = epoch, self._draw(generator).tolist()
        return self._permutation[1]

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self.num_images, generator=generator)

    def window(self, epoch: int, step: int) -> Sequence[int]:
        """The images of one optimizer step."""
        return self.permutation(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def windows(self, epoch: int, start_step: int = 0) -> Iterator[Sequence]:
        """For each window from `start_step` on, what its images are called when they are asked for."""
        for step in range(start_step, self.steps_per_epoch):
            yield self.window(epoch, step)

    def share(self, window: Sequence, slot: int) -> Sequence:
        """The part of a window that belongs to one slot; empty where the last window of an epoch has none left."""
        size = self.batch_size // self.slots
        return window[slot * size : (slot + 1) * size]

    def position(self, epoch: int, step: int) -> dict | None:
        """What a checkpoint must hold besides epoch and step to find the place in the data again; here nothing."""

    def restore(self, position: dict | None) -> None:
        """Takes over what `position` returned."""


class RepeatedOrder(WindowOrder):
    """As `WindowOrder`, with some images several times in an epoch: n + N·r is image n for the r-th time, from 0.

    Of a factor of 2.3 (at least 1, `(N,)`), an image comes twice in each epoch, and in three of ten once more. All
    epochs have equally many steps: extra times are drawn by systematic sampling, so that their number is the same.
    """

    def __init__(self, factors: np.ndarray, batch_size: int, slots: int = 1, seed: int = 0):
        factors = torch.as_tensor(factors, dtype=torch.float64)
        self.times, self.chances = factors.long(), factors.frac()
        self.extra = int(self.chances.sum() + 1e-6)
        super().__init__(int(self.times.sum()) + self.extra, batch_size, slots, seed)

    def _draw(self, generator: torch.Generator) -> torch.Tensor:
        count = len(self.times)
        mixed = torch.randperm(count, generator=generator)
        ends = self.chances[mixed].cumsum(0)
        first = torch.rand((), generator=generator, dtype=torch.float64)
        places = (torch.arange(self.extra) + first) * ends[-1] / max(self.extra, 1)
        drawn = mixed[torch.searchsorted(ends, places, right=True).clamp(max=count - 1)]
        times = self.times.index_add(0, drawn, torch.ones_like(drawn))
        images = torch.arange(count).repeat_interleave(times)
        repetition = torch.arange(len(images)) - (times.cumsum(0) - times).repeat_interleave(times)
        return (images + count * repetition)[torch.randperm(len(images), generator=generator)]


class StreamOrder(WindowOrder):
    """As `WindowOrder`, of a stream; images are known by their place in the epoch, from 0.

    The `datasets` library shuffles the stream's files (or, where they are few, their row groups). What comes then is
    cut into *blocks* of `shuffle_buffer` pictures, rounded up to whole windows, and each block is permuted. Unlike the
    library's own buffer, a block can resume: where the stream stood before the block of the next step.

    Every process reads the whole stream without decoding, and decodes the pictures of its own micro-batches. While one
    block is trained on, the next is read, so that up to two are held, as files. After `num_images` an epoch ends.
    """

    def __init__(
        self,
        data: IterableDataset,
        num_images: int,
        batch_size: int,
        slots: int = 1,
        seed: int = 0,
        shuffle_buffer: int = 1000,
    ):
        super().__init__(num_images, batch_size, slots, seed)
        if data.num_shards < FEW_FILES:
            data = data.reshard()
        # a buffer of one: the library shuffles files alone, and holds nothing that a checkpoint would lack
        self.data = undecoded(data).shuffle(seed=seed, buffer_size=1, max_buffer_input_shards=1)
        self.block_steps = -(-shuffle_buffer // batch_size)
        self._epoch = -1
        self._starts: dict[int, dict] = {}  # where the stream stood before a block of this epoch

    def permutation(self, epoch: int) -> range:
        """The places of an epoch."""
        return range(self.num_images)

    def position(self, epoch: int, step: int) -> dict[str, Any] | None:
        """Where the stream stood before the block with this step, JSON values; None if it has not been read."""
        block = step // self.block_steps
        if epoch != self._epoch or block not in self._starts or step >= self.steps_per_epoch:
            return None
        return {"epoch": epoch, "block": block, "stream": self._starts[block]}

    def restore(self, position: dict[str, Any] | None) -> None:
        """Takes over what `position` returned."""
        if position is not None:
            self._epoch, self._starts = position["epoch"], {position["block"]: position["stream"]}

    def windows(self, epoch: int, start_step: int = 0) -> Iterator[list[Place]]:
        """The pictures of each window from `start_step` on, read from the last known place before that step."""
        if start_step >= self.steps_per_epoch:
            return
        if epoch != self._epoch:
            self._epoch, self._starts = epoch, {}
        block = start_step // self.block_steps
        block = block if block in self._starts else 0
        self.data.set_epoch(epoch)
        self.data.load_state_dict(self._starts.get(block))
        examples, done = iter(self.data), block * self.block_steps * self.batch_size

        def read(count: int) -> list[dict]:
            nonlocal done
            count = min(count, self.num_images - done)
            LIBRARY.addFilter(_no_buffer)
            try:
                found = list(islice(examples, count))
            finally:
                LIBRARY.removeFilter(_no_buffer)
            done += len(found)
            if len(found) < count:
                have = f"{done} of {self.num_images} pictures"
                raise ValueError(f"The training stream ended after {have}: give --stream_length {done}.")
            return found

        self._starts.setdefault(0, None)
        held = read(self.block_steps * self.batch_size)
        while held:
            first = block * self.block_steps
            self._starts[block + 1] = self.data.state_dict()
            places, held = self._mixed(held, epoch, block), []
            for step in range(first, min(first + self.block_steps, self.steps_per_epoch)):
                if step >= start_step:
                    yield places[(step - first) * self.batch_size : (step - first + 1) * self.batch_size]
                held += read(self.batch_size)
            block += 1

    def _mixed(self, examples: list[dict], epoch: int, block: int) -> list[Place]:
        count, start = len(examples), block * self.block_steps * self.batch_size
        generator = torch.Generator().manual_seed(position_seed(self.seed, epoch, block))
        order = torch.randperm(count, generator=generator).tolist()
        tried = min(count, 1 + SPARES)
        return [
            Place(start + place, [examples[order[(place + spare) % count]] for spare in range(tried)])
            for place in range(count)
        ]


class ProcessBatches(Sampler[Sequence]):
    """The micro-batches of one process in one epoch, as `batch_sampler` of a `DataLoader` that Accelerate leaves alone.

    Every process gets as many as every other, or wrappers that communicate would wait for ever. An empty slot of the
    last window therefore yields the window's first image once more, which is to count as nothing.
    """

    def __init__(
        self, order: WindowOrder, epoch: int, start_step: int = 0, process_index: int = 0, num_processes: int = 1
    ):
        if order.slots % num_processes:
            raise ValueError(f"{order.slots} slots cannot be shared by {num_processes} processes.")
        self.order, self.epoch, self.start_step = order, epoch, start_step
        self.my_slots = range(process_index, order.slots, num_processes)

    def __len__(self) -> int:
        return max(self.order.steps_per_epoch - self.start_step, 0) * len(self.my_slots)

    def __iter__(self) -> Iterator[Sequence]:
        for window in self.order.windows(self.epoch, self.start_step):
            for slot in self.my_slots:
                yield self.order.share(window, slot) or window[:1]


class RepeatedExamples(DetectionDataset):
    """Examples by the numbers of `RepeatedOrder`; each time that an image comes, it is augmented in another way."""

    def __getitem__(self, number: int) -> tuple[Image.Image, Annotations]:
        return self.example(number % len(self), number)


def training_examples(
    data: AnySet, recipe: Recipe, processor: BaseImageProcessor, num_processes: int, num_classes: int
) -> tuple[DetectionDataset | StreamedExamples, WindowOrder]:
    """Examples, and the order that says which of them each step asks for."""
    augmentation = make_augmentation(recipe.augmentation, processor.size)
    shape = recipe.batch_size, num_processes * recipe.accumulation_steps, recipe.seed
    options = augmentation, recipe.seed, recipe.max_corrupt
    if recipe.sampling == "balanced":
        factors = repeat_factors(data, num_classes)
        return RepeatedExamples(data, *options), RepeatedOrder(factors, *shape)
    if isinstance(data, IterableDataset):
        order = StreamOrder(data, require_length(data), *shape, recipe.shuffle_buffer)
        return StreamedExamples(*options), order
    return DetectionDataset(data, *options), WindowOrder(len(data), *shape)
