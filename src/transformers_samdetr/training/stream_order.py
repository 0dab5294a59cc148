"""The order of a streamed training set: a function of (seed, epoch, batch size, shuffle buffer), as that of other sets.

The `datasets` library shuffles the stream's files (or, where they are few, their row groups). What comes then is cut
into *blocks* of `shuffle_buffer` pictures, and each block is mixed by itself. The library's own buffer cannot be part
of a checkpoint; a block can: a run goes on from where the stream stood before the block that holds the next step.

Every process reads the whole stream, without decoding, and decodes the pictures of its own micro-batches. (The library
does the same where files cannot be shared evenly.) So the order does not depend on the number of processes.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset

from ..data.dataset import undecoded
from ..data.stream import Place
from .order import WindowOrder, position_seed

FEW_FILES = 64
"""A stream of fewer files is shuffled by row groups, where it has any."""
SPARES = 8
"""So many of the pictures that follow may have to take the place of an unusable one."""


class StreamOrder(WindowOrder):
    """As `WindowOrder`, of a stream: images are known by their place in the epoch, from 0 on.

    Args:
        data: in the schema of `detection_features`.
        num_images: pictures of an epoch; if the stream has more, the rest is left out.
        batch_size, slots, seed: as in `WindowOrder`.
        shuffle_buffer: pictures that are mixed, rounded up to whole windows; while one block is trained on, the next is
            read, so that up to twice as many are held, as files.
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
        """The pictures of each window from `start_step` on.

        Starts at the block with that step where its position is known, otherwise at the beginning of the stream.

        Raises:
            ValueError: the stream is shorter than an epoch.
        """
        if start_step >= self.steps_per_epoch:
            return
        if epoch != self._epoch:
            self._epoch, self._starts = epoch, {}
        block = start_step // self.block_steps
        block = block if block in self._starts else 0
        self.data.set_epoch(epoch)
        self.data.load_state_dict(self._starts.get(block))
        reader = _Reader(self.data, block * self.block_steps * self.batch_size, self.num_images)
        self._starts.setdefault(0, None)
        held = reader.read(self.block_steps * self.batch_size)
        while held:
            first = block * self.block_steps
            self._starts[block + 1] = self.data.state_dict()
            places, held = self._mixed(held, epoch, block), []
            for step in range(first, min(first + self.block_steps, self.steps_per_epoch)):
                if step >= start_step:
                    yield places[(step - first) * self.batch_size : (step - first + 1) * self.batch_size]
                held += reader.read(self.batch_size)
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


class _Reader:
    """Reads on in a stream, of which `done` pictures are read, until `total` are."""

    def __init__(self, data: IterableDataset, done: int, total: int):
        self.examples, self.done, self.total = iter(data), done, total

    def read(self, count: int) -> list[dict]:
        count = min(count, self.total - self.done)
        with _no_word_of_buffers():
            examples = list(islice(self.examples, count))
        self.done += len(examples)
        if len(examples) < count:
            raise ValueError(
                f"The training stream ended after {self.done} of {self.total} pictures: give --stream_length "
                f"{self.done}, which is how many there are."
            )
        return examples


@contextmanager
def _no_word_of_buffers() -> Iterator[None]:
    """The library warns that the content of a buffer is lost, also of the buffer of one picture, which holds none."""
    logger = logging.getLogger("datasets.iterable_dataset")

    def is_other(record: logging.LogRecord) -> bool:
        return "shuffle buffer" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
