"""The training loss of an evaluation set, independent of the batches and the number of processes."""

import math

import torch
from accelerate.utils import gather_object
from torch import Tensor


class SetLoss:
    """The summed losses of all pictures, divided by the number of their objects (at least 1).

    The model divides the loss of a batch by its objects, averaged over the processes and at least 1: undone here.
    """

    def __init__(self):
        self.batches: list[tuple[Tensor, int, bool]] = []

    def add(self, loss: Tensor, count: int, counted: bool) -> None:
        """Adds a batch: its scalar loss, which stays on its device until `compute`, and the number of its objects.

        `counted` is False where another process counts it. Every process must add the same number of batches.
        """
        self.batches.append((loss.detach(), count, counted))

    def compute(self) -> float:
        """The loss of the set, the same on all processes; every process must call this."""
        # sums are made on the host in float64, which Apple's GPUs do not have
        losses = torch.stack([loss for loss, _, _ in self.batches]).float().tolist()
        own = [(loss, count, counted) for loss, (_, count, counted) in zip(losses, self.batches, strict=True)]
        total, objects = [], 0
        for step in zip(*gather_object([own]), strict=True):  # the same batch index on every process
            divisor = max(1.0, sum(count for _, count, _ in step) / len(step))
            total += [loss * divisor for loss, _, counted in step if counted]
            objects += sum(count for _, count, counted in step if counted)
        return math.fsum(total) / max(objects, 1)
