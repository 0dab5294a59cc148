"""Training targets: checked on the host before anything runs, then padded into one batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

BOX_TOLERANCE = 1e-5
"""How far outside [0, 1] rounding may leave a coordinate."""


@dataclass
class Targets:
    """The objects of a batch, padded to the largest number T of one image.

    Attributes:
        labels: `(B, T)` int64, 0 in padding.
        boxes: `(B, T, 4)` float32, center x, center y, width, height, normalised by the valid image; 0 in padding.
        counts: number of objects of each image, on the host.
        names: what error messages and warnings call each image.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    names: list[str]

    @property
    def valid(self) -> Tensor:
        """`(B, T)`, True where there is an object. Made on the device from nothing but its shape and small fills."""
        columns = torch.arange(self.labels.shape[1], device=self.labels.device)
        rows = [columns < count for count in self.counts]
        return torch.stack(rows) if rows else columns.new_zeros(0, 0, dtype=torch.bool)


def _image_name(index: int, target: dict) -> str:
    image_id = target.get("image_id")
    if isinstance(image_id, Tensor):
        image_id = image_id.flatten().tolist()
        image_id = image_id[0] if len(image_id) == 1 else image_id
    return f"image {index} of the batch" + (f" (image_id {image_id})" if image_id is not None else "")


def _check_image(name: str, target: dict, num_labels: int) -> None:
    missing = [key for key in ("class_labels", "boxes") if not isinstance(target.get(key), Tensor)]
    if missing:
        raise ValueError(f"The labels of {name} lack the tensor {missing[0]!r}; they hold {sorted(target)}.")
    # .cpu() returns the same tensor where the labels are on the host, as a collator leaves them
    labels, boxes = target["class_labels"].detach().cpu(), target["boxes"].detach().cpu()
    if labels.ndim != 1 or boxes.shape != (len(labels), 4):
        raise ValueError(
            f"The labels of {name} do not fit together: class_labels has the shape {tuple(labels.shape)} and boxes "
            f"{tuple(boxes.shape)}; they must be (T,) and (T, 4)."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"class_labels of {name} have the dtype {labels.dtype}; give integer class indices.")
    wrong = (labels < 0) | (labels >= num_labels)
    if wrong.any():
        raise ValueError(
            f"{name} has the label {labels[wrong][0].item()}, outside the {num_labels} classes of the model (0 to "
            f"{num_labels - 1}). Map category ids to labels first, or build the model with more classes (num_labels)."
        )
    # NaN fails both comparisons
    fits = ((boxes >= -BOX_TOLERANCE) & (boxes <= 1 + BOX_TOLERANCE)).all(-1)
    if not fits.all():
        raise ValueError(
            f"{name} has the box {boxes[~fits][0].tolist()}, which is not finite or not within [0, 1]. Boxes are "
            "(center x, center y, width, height), normalised by the image; the image processor makes them from COCO's."
        )


def prepare_targets(labels: list[dict], batch_size: int, num_labels: int, device: torch.device) -> Targets:
    """Checks the labels of a batch and moves them to the device.

    Args:
        labels: for each image `class_labels` `(T,)` int64 and `boxes` `(T, 4)`, center x, center y, width, height,
            normalised; other keys are ignored, but `image_id` names the image in errors.
        batch_size: number of images.
        num_labels: number of classes.
        device: where the targets are needed.

    Raises:
        ValueError: something does not fit; the message names the image, the value and the remedy.
    """
    if not isinstance(labels, (list, tuple)) or not all(hasattr(target, "keys") for target in labels):
        raise ValueError(f"labels must be a list with one dict for each image, not {type(labels).__name__}.")
    if len(labels) != batch_size:
        raise ValueError(f"There are {len(labels)} labels for {batch_size} images; give one dict for each image.")
    names = [_image_name(index, target) for index, target in enumerate(labels)]
    for name, target in zip(names, labels, strict=True):
        _check_image(name, target, num_labels)
    counts = [len(target["class_labels"]) for target in labels]
    most = max(counts, default=0)
    padded_labels = [torch.nn.functional.pad(t["class_labels"].long(), (0, most - len(t["boxes"]))) for t in labels]
    padded_boxes = [torch.nn.functional.pad(t["boxes"].float(), (0, 0, 0, most - len(t["boxes"]))) for t in labels]
    return Targets(
        torch.stack(padded_labels).to(device, non_blocking=True),
        torch.stack(padded_boxes).to(device, non_blocking=True),
        counts,
        names,
    )
