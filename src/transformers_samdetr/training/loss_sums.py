"""Sums of an epoch's losses, for the log."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedConfig


class LossSums:
    """Sums by name over the windows of an epoch, averaged over all processes by `collect`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, Tensor], weight: Tensor | float = 1.0) -> None:
        """Adds losses of this process, times `weight`, on the device."""
        for name, value in losses.items():
            part = (value.detach().float() * weight).to(self.accelerator.device)
            self.sums[name] = self.sums[name] + part if name in self.sums else part

    def collect(self) -> dict[str, float]:
        """The means over the processes of the sums, the same everywhere; all processes call it together."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        values = self.accelerator.gather(torch.stack([self.sums[name] for name in names])[None])  # (processes, names)
        columns = values.T.tolist()  # averaged as Python's floats, since some devices have no float64
        return {name: sum(column) / len(column) for name, column in zip(names, columns, strict=True)}

    def restore(self, sums: Mapping[str, float]) -> None:
        """Goes on from what `collect` returned, on every process."""
        self.sums = {name: torch.tensor(value, device=self.accelerator.device) for name, value in sums.items()}

    def local_means(self, steps: int) -> dict[str, float]:
        """This process's means over `steps` windows, for display; waits for the device."""
        return {name: value.item() / max(steps, 1) for name, value in self.sums.items()}


def weighted_terms(loss_dict: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
    """The terms of a model's `loss_dict` times their coefficients: what they add to the loss, as published logs do."""
    coefficients = {
        "ce": config.class_loss_coefficient,
        "bbox": config.bbox_loss_coefficient,
        "giou": config.giou_loss_coefficient,
    }
    return {name: coefficients[name.split("loss_")[1].split("_")[0]] * term for name, term in loss_dict.items()}
