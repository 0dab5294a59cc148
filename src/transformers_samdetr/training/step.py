"""One loss for a window of micro-batches over all processes, and decisions that all processes share.

The model divides the loss of a micro-batch by its boxes; `loss_weights` undoes this, so that every box of a window
counts alike, and gradients of an accumulated window equal those of the same images in one batch.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


def without_objects(batch: dict) -> dict:
    """The same images without labels, for a micro-batch that is to count as nothing."""
    emptied = [{**t, "class_labels": t["class_labels"][:0], "boxes": t["boxes"][:0]} for t in batch["labels"]]
    return {**batch, "labels": emptied}


def loss_weights(counts: Sequence[int], fillers: Sequence[bool], accelerator: Accelerator) -> Tensor:
    """What to multiply the loss of each micro-batch of this process by, `(A,)` float32 on the device.

    With n_a boxes of the a-th micro-batches of all P processes together, the model divides by max(n_a / P, 1). One
    process with the whole window would divide by max(sum of n_a, 1), and gradients are averaged over the P. The weight
    is the first over a P-th of the second, and 0 for a filler.
    All processes must call this together; nothing waits for the device.

    Args:
        counts: objects in each of this process's A micro-batches.
        fillers: which of them are to count as nothing.
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


def image_ids(batch: dict) -> list:
    """The ids of a micro-batch's images, as the data set has them."""
    ids = [target.get("image_id") for target in batch["labels"]]
    return [value.flatten().tolist()[0] if isinstance(value, Tensor) else value for value in ids]


def stop_for_non_finite(ids: Sequence, what: str, accelerator: Accelerator) -> None:
    """Raises FloatingPointError on every process, since `what` is not finite; all call this with their images' ids."""
    everyones = gather_object([list(ids)])
    named = sorted({image for process in everyones for image in process}, key=str)
    raise FloatingPointError(
        f"{what} is not finite on the images with the ids {named}. Training stops, and nothing was saved since: the "
        "last checkpoint is as it was. Look at these images and their boxes, or lower learning_rate, or train with "
        "mixed_precision='bf16' or 'no'."
    )
