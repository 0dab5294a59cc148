"""Denoising queries: noised objects of a training batch, and what the decoder makes of them (DN-DETR)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from ...box_ops import center_to_corners
from ...denoising import DenoisingQueries, make_denoising_queries
from ...modeling_sam_detr import SamDetrForObjectDetection
from ...targets import Targets, prepare_targets
from .drawing import MARKS, draw_box, picture_grid, show_picture


@dataclass(frozen=True)
class Denoised:
    """Noised objects, group by group, and what the last decoder layer predicts from them.

    Attributes:
        targets: the objects of the batch, `T` at most in a picture.
        noised: the queries made of them, of P groups.
        boxes: `(B, P·T, 4)`, center x, center y, width, height, normalised, as predicted.
        labels: `(B, P·T)`, the class with the highest score.
    """

    targets: Targets
    noised: DenoisingQueries
    boxes: Tensor
    labels: Tensor


@torch.no_grad()
def denoise(model: SamDetrForObjectDetection, batch: Mapping[str, object]) -> Denoised:
    """Runs a model on a batch with denoising queries, as training does; the noise is PyTorch's next.

    Args:
        model: with `num_denoising_groups`, in any mode.
        batch: `pixel_values`, perhaps `pixel_mask`, and `labels`, as the image processor makes them.

    Raises:
        ValueError: the model has no denoising queries, or the labels do not fit.
    """
    config = model.config
    if not config.num_denoising_groups:
        raise ValueError("This model has no denoising queries: num_denoising_groups=0.")
    pixels = batch["pixel_values"].to(model.device)
    targets = prepare_targets(batch["labels"], len(pixels), config.num_labels, model.device)
    noised = make_denoising_queries(targets, config)
    outputs = model.model(pixels, batch.get("pixel_mask"), denoising_queries=noised)
    count = noised.labels.shape[1]
    logits = model.class_heads[-1](outputs.intermediate_hidden_states[:, -1, :count])
    return Denoised(targets, noised, outputs.intermediate_boxes[:, -1, :count], logits.argmax(-1))


def denoising_figure(images: Sequence[Image.Image], denoised: Denoised) -> Figure:
    """For each picture its noised objects on the left, and on the right what the last layer restores of them.

    An object's noised copies have its colour, the object itself is the thick box. A dashed box has the wrong class: on
    the left because its label was flipped, on the right because the model says so.

    Args:
        images: of the batch, as `batch_pictures` gives them; those without objects are left out.
        denoised: what `denoise` returned.

    Raises:
        ValueError: no picture has an object.
    """
    shown = [index for index, count in enumerate(denoised.targets.counts) if count]
    if not shown:
        raise ValueError("No picture of the batch has an object to make denoising queries of.")
    figure = picture_grid(images[shown[0]], len(shown), 2)
    for (left, right), index in zip(figure.subplots(len(shown), 2, squeeze=False), shown, strict=True):
        noised = denoised.noised
        _draw(left, images[index], denoised, index, noised.box_logits.sigmoid(), noised.labels, "noised")
        _draw(right, images[index], denoised, index, denoised.boxes, denoised.labels, "restored")
    return figure


def _draw(axes: Axes, image: Image.Image, denoised: Denoised, index: int, boxes, labels, title: str) -> None:
    """One picture with its objects and `(B, P·T, …)` copies of them."""
    targets, groups = denoised.targets, denoised.noised.num_groups
    count = targets.counts[index]
    scale = torch.tensor([*image.size] * 2)
    objects = center_to_corners(targets.boxes[index, :count].cpu()) * scale  # (T, 4)
    copies = (center_to_corners(boxes[index].float().cpu()) * scale).unflatten(0, (groups, -1))[:, :count]  # (P, T, 4)
    right = (labels[index].cpu().unflatten(0, (groups, -1))[:, :count] == targets.labels[index, :count].cpu()).numpy()
    overlap = np.mean([box_iou(group, objects).diagonal().mean() for group in copies])
    show_picture(axes, image, title=f"{title}: IoU {overlap:.2f}, class right {right.mean():.0%}")
    for number in range(count):
        color = MARKS[number % len(MARKS)][1]
        for group in range(groups):
            draw_box(axes, copies[group, number].tolist(), color, 0.9, "-" if right[group, number] else (0, (2, 2)))
        draw_box(axes, objects[number].tolist(), color, 2.4)
