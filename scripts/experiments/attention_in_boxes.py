"""Where cross-attention looks: how much of a matched query's weights lies in the box of its object."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from transformers.image_processing_utils import BaseImageProcessor

from benchmarks.report import table
from transformers_samdetr.backbone import FeatureLevel
from transformers_samdetr.box_ops import box_to_pixel_corners
from transformers_samdetr.data import DetectionCollator, DetectionDataset
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection

from .match_stability import evaluating, match_objects

BATCH = 8


@dataclass
class AttentionInBoxes:
    """Shares in [0, 1] at each decoder layer, of objects that are matched there.

    Attributes:
        weight: `(layers, N)`, of the attention weights in the object's box, the mean over heads; objects image by
            image, as in the labels.
        area: `(layers, N)`, of the valid pixels of the feature map; so much of the weights would lie in the box if a
            query attended to everything evenly.
    """

    weight: Tensor
    area: Tensor


@torch.no_grad()
def attention_in_boxes(model: SamDetrForObjectDetection, batch: Mapping[str, Any]) -> AttentionInBoxes:
    """Adds up the cross-attention of matched queries over their objects' boxes, positions and all.

    A query is matched at each layer by what it predicts there, as in the loss. A pixel of the feature map that lies in
    a box by a part counts by that part.

    Args:
        model: with or without aligner; it runs in evaluation mode with eager attention, and both are restored.
        batch: what the model takes, with `labels`.

    Raises:
        ValueError: the model does not return every layer's predictions.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with evaluating(model), _eager(model), recorded_levels(model) as levels:
        outputs = model(**inputs, output_attentions=True)
    objects, weights, areas = match_objects(model, outputs, batch["labels"]), [], []
    for index, (attention, level) in enumerate(zip(outputs.cross_attentions, levels, strict=True)):
        image, query = objects.image[index], objects.query[index]
        parts = covered_parts(objects.boxes[image, objects.target[index]], level, image)  # (N, S)
        weights.append((attention[image, :, query].mean(1) * parts).sum(-1))
        areas.append(parts.sum(-1) / level.mask.flatten(1).sum(-1)[image])
    return AttentionInBoxes(torch.stack(weights), torch.stack(areas))


def attention_in_set(
    model: SamDetrForObjectDetection, processor: BaseImageProcessor, pictures: Dataset
) -> AttentionInBoxes:
    """The same over a whole set.

    Args:
        model: with or without aligner.
        processor: of the model.
        pictures: with their objects, as `DetectionData.evaluation`.

    Raises:
        ValueError: no picture has an object.
    """
    batches = DataLoader(DetectionDataset(pictures), batch_size=BATCH, collate_fn=DetectionCollator(processor))
    found = [attention_in_boxes(model, batch) for batch in batches]
    whole = AttentionInBoxes(*(torch.cat([getattr(part, name) for part in found], 1) for name in ("weight", "area")))
    if not whole.area.shape[1]:
        raise ValueError(f"None of the {len(pictures)} pictures has an object: give a set with annotations.")
    return whole


def attention_summary(found: AttentionInBoxes) -> str:
    """A table: at each layer the mean shares in percent, and how often the one is in the other."""
    rows = []
    for layer, (weight, area) in enumerate(zip(found.weight.mean(1), found.area.mean(1), strict=True)):
        rows.append([str(layer + 1), f"{100 * weight:.1f}", f"{100 * area:.1f}", f"{weight / area:.1f}"])
    return table(["layer", "attention in the own box, %", "area, %", "ratio"], rows)


def covered_parts(boxes: Tensor, level: FeatureLevel, image: Tensor) -> Tensor:
    """`(N, H·W)` in [0, 1]: the part of each pixel of a feature map that a box covers.

    Args:
        boxes: `(N, 4)`, center x, center y, width, height, normalised by the valid image.
        level: the map.
        image: `(N,)`, index of each box's image.
    """
    height, width = level.size
    corners = box_to_pixel_corners(boxes[:, None], level.valid_size[image])
    low, high = corners.squeeze(1).split(2, dim=-1)  # (N, 2)

    def along(axis: int, length: int) -> Tensor:
        begin = torch.arange(length, device=boxes.device)
        return (high[:, axis, None].minimum(begin + 1) - low[:, axis, None].maximum(begin)).clamp(min=0)

    return (along(1, height)[:, :, None] * along(0, width)[:, None]).flatten(1)


@contextmanager
def recorded_levels(model: SamDetrForObjectDetection) -> Iterator[list[FeatureLevel]]:
    """The feature map that each decoder layer is given, while this lasts."""
    levels: list[FeatureLevel] = []
    layers = model.model.decoder.layers
    with removed_after(
        [layer.register_forward_pre_hook(lambda _, inputs: levels.append(inputs[4])) for layer in layers]
    ):
        yield levels


@contextmanager
def removed_after(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks that last as long as this."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager(model: SamDetrForObjectDetection) -> Iterator[None]:
    """The attention that keeps its weights, while this lasts."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)
