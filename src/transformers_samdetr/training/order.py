"""Which images a step sees: a function of (seed, epoch, batch size) alone, not of processes, workers or resumes.

One optimizer step is one *window* of `batch_size` images. A window is cut into `slots` equal micro-batches; with P
processes and A accumulation steps there are P·A of them, and process r takes slot a·P + r as its a-th micro-batch. So
one process with two accumulation steps and two processes with one see the same micro-batches in the same step.

The loader that reads this order is not passed to `Accelerator.prepare`: that would shard batches which are already this
process's own, and repeat images to make processes even. Accelerate has only to move batches to the device.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


class WindowOrder:
    """The images of every window of every epoch.

    Args:
        num_images: size of the training set.
        batch_size: images of one optimizer step, over all processes and accumulation steps.
        slots: micro-batches of a window, processes · accumulation steps.
        seed: of the permutations.

    Raises:
        ValueError: there are no images, or `slots` does not divide `batch_size`.
    """

    def __init__(self, num_images: int, batch_size: int, slots: int = 1, seed: int = 0):
        if num_images < 1:
            raise ValueError("num_images=0 is not possible: the training set is empty.")
        if batch_size < 1 or slots < 1 or batch_size % slots:
            raise ValueError(
                f"batch_size={batch_size} is not possible: it counts the images of an optimizer step over all "
                f"processes, and must be a multiple of processes times accumulation steps, {slots} here."
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.slots = slots
        self.seed = seed
        self._permutation: tuple[int, list[int]] | None = None  # of the epoch that was asked for last

    @property
    def steps_per_epoch(self) -> int:
        """Windows of an epoch; the last one may be smaller."""
        return -(-self.num_images // self.batch_size)

    def permutation(self, epoch: int) -> Sequence[int]:
        """All images once, in the order of an epoch (epochs count from 0)."""
        if self._permutation is None or self._permutation[0] != epoch:
            generator = torch.Generator().manual_seed(position_seed(self.seed, epoch))
            self._permutation = epoch, torch.randperm(self.num_images, generator=generator).tolist()
        return self._permutation[1]

    def window(self, epoch: int, step: int) -> Sequence[int]:
        """The images of one optimizer step."""
        return self.permutation(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def windows(self, epoch: int, start_step: int = 0) -> Iterator[Sequence]:
        """For each window from `start_step` on, what its images are called when they are asked for."""
        for step in range(start_step, self.steps_per_epoch):
            yield self.window(epoch, step)

    def micro_batch(self, epoch: int, step: int, slot: int) -> Sequence[int]:
        """The images of one slot; empty where the last window of an epoch has none left for it."""
        return self.share(self.window(epoch, step), slot)

    def share(self, window: Sequence, slot: int) -> Sequence:
        """The part of a window that belongs to one slot."""
        size = self.batch_size // self.slots
        return window[slot * size : (slot + 1) * size]

    def position(self, epoch: int, step: int) -> dict | None:
        """What a checkpoint must hold besides epoch and step to find the place in the data again; here nothing."""

    def restore(self, position: dict | None) -> None:
        """Takes over what `position` returned."""


class ProcessBatches(Sampler[Sequence]):
    """The micro-batches of one process in one epoch, as `batch_sampler` of a `DataLoader`.

    Every process gets as many as every other, or wrappers that communicate would wait for ever. An empty slot of the
    last window therefore yields the window's first image once more; `is_filler` tells the trainer to count it as
    nothing.

    Args:
        order: the order of all.
        epoch: from 0.
        start_step: the first window, when an epoch is resumed in the middle.
        process_index, num_processes: of this process; `order.slots` is a multiple of the latter.
    """

    def __init__(
        self, order: WindowOrder, epoch: int, start_step: int = 0, process_index: int = 0, num_processes: int = 1
    ):
        if order.slots % num_processes:
            raise ValueError(f"{order.slots} slots cannot be shared by {num_processes} processes.")
        self.order = order
        self.epoch = epoch
        self.start_step = start_step
        self.my_slots = range(process_index, order.slots, num_processes)

    def __len__(self) -> int:
        return max(self.order.steps_per_epoch - self.start_step, 0) * len(self.my_slots)

    def __iter__(self) -> Iterator[Sequence]:
        for window in self.order.windows(self.epoch, self.start_step):
            for slot in self.my_slots:
                yield self.order.share(window, slot) or window[:1]

    def is_filler(self, step: int, slot: int) -> bool:
        """Whether this slot has no images of its own."""
        return not self.order.micro_batch(self.epoch, step, slot)


def position_seed(*position: int) -> int:
    """A seed for a position in training, such as (seed, epoch, step, slot).

    Neighbouring positions get unrelated seeds, and every process and every resumed run the same ones.

    >>> position_seed(0, 1) == position_seed(0, 1), position_seed(0, 1) == position_seed(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))
