"""Losses of a window and of an epoch over all processes, and decisions that all processes share."""

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedConfig

from ..loss import loss_coefficients


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
    coefficients = loss_coefficients(config)
    return {name: coefficients[name.split("loss_")[1].split("_")[0]] * term for name, term in loss_dict.items()}


def without_objects(batch: dict) -> dict:
    """The same images without labels, for a micro-batch that is to count as nothing."""
    emptied = [{**t, "class_labels": t["class_labels"][:0], "boxes": t["boxes"][:0]} for t in batch["labels"]]
    return {**batch, "labels": emptied}


def loss_weights(counts: Sequence[int], fillers: Sequence[bool], accelerator: Accelerator) -> Tensor:
    """What to multiply the loss of each micro-batch of this process by, `(A,)` float32 on the device.

    So every box of a window counts alike, and gradients are those of the same images in one batch.
    With n_a boxes of the a-th micro-batches of all P processes together, the model divides by max(n_a / P, 1). One
    process with the whole window would divide by max(sum of n_a, 1), and gradients are averaged over the P. The weight
    is the first over a P-th of the second, and 0 for a filler.
    All processes must call this together with their `counts` of objects; nothing waits for the device.
    """
    boxes = torch.tensor(counts, dtype=torch.float32, device=accelerator.device)
    boxes = accelerator.reduce(boxes, reduction="sum") / accelerator.num_processes
    counted = torch.tensor([not filler for filler in fillers], dtype=torch.float32, device=accelerator.device)
    return counted * boxes.clamp(min=1) / boxes.sum().clamp(min=1 / accelerator.num_processes)


def any_process(flags: Sequence[Tensor | bool], accelerator: Accelerator) -> list[bool]:
    """For each flag whether it is set on any process; the same answer everywhere.

    Reading the answer waits for the device: little more than for the loss, right after a forward whose matching waited.
    """
    values = torch.stack([torch.as_tensor(flag, device=accelerator.device).float() for flag in flags])
    return (accelerator.reduce(values, reduction="sum") > 0).tolist()


def stop_for_non_finite(labels: Sequence[dict], what: str, accelerator: Accelerator) -> None:
    """Raises FloatingPointError on every process, since `what` is not finite; all call it with their images' labels."""
    ids = [target.get("image_id") for target in labels]
    everyones = gather_object([[id_.flatten().tolist()[0] if isinstance(id_, Tensor) else id_ for id_ in ids]])
    named = sorted({image for process in everyones for image in process}, key=str)
    raise FloatingPointError(
        f"{what} is not finite on the images with the ids {named}. Nothing was saved since: look at these "
        "images and their boxes, lower learning_rate, or train with mixed_precision='bf16' or 'no'."
    )
