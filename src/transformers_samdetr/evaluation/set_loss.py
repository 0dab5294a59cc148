"""The training loss of an evaluation set: each picture once, the same however many processes there are."""

import torch
from accelerate.utils import reduce
from torch import Tensor


class SetLoss:
    """All losses of all pictures divided by all objects, at least 1.

    (The authors' `test_loss` is a mean over batches, each divided by its own objects: next to the same, but dependent
    on which pictures are together.) The model divides a batch's loss by its objects, averaged over the processes and at
    least 1; here it is multiplied by that again.
    """

    def __init__(self):
        self.losses: list[Tensor] = []
        self.counts: list[int] = []
        self.counted: list[bool] = []

    def add(self, loss: Tensor, count: int, counted: bool) -> None:
        """Takes one batch; all processes take equally many.

        Args:
            loss: the model's, a scalar; it stays on its device.
            count: objects in the batch's labels.
            counted: False for a batch that another process counts.
        """
        self.losses.append(loss.detach())
        self.counts.append(count)
        self.counted.append(counted)

    def compute(self) -> float:
        """The loss of the set, the same on all processes, which call this together."""
        losses = torch.stack(self.losses).double()
        counts = torch.tensor(self.counts, dtype=torch.float64, device=losses.device)
        counted = torch.tensor(self.counted, device=losses.device)
        divisors = reduce(counts, reduction="mean").clamp(min=1)
        sums = torch.stack([(losses * divisors)[counted].sum(), counts[counted].sum()])
        loss, boxes = reduce(sums, reduction="sum").tolist()
        return loss / max(boxes, 1)
