"""Measurements on matched queries: matching stability, attention within the object's box, similarity to its region."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from transformers.image_processing_utils import BaseImageProcessor

from benchmarks.performance_page import table
from transformers_samdetr.attention import SamDetrAttention, SamDetrSharedKeyAttention
from transformers_samdetr.backbone import FeatureLevel
from transformers_samdetr.data import DetectionCollator, DetectionDataset
from transformers_samdetr.geometry import box_to_pixel_corners
from transformers_samdetr.loss import match, prepare_targets
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection
from transformers_samdetr.operations import region_align
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput


@dataclass
class Assignment:
    """The query that each of the N objects of a set is matched with, at each decoder layer.

    Attributes:
        query: `(layers, N)` int64, index of the query in its image; -1 where there were more objects than queries.
        image: `(N,)` int64, index of the object's image in the set.
        num_images: of the set, those without objects included.
        num_queries: of an image.
    """

    query: Tensor
    image: Tensor
    num_images: int
    num_queries: int

    def check_comparable(self, other: "Assignment") -> None:
        """
        Raises:
            ValueError: the other one is not of the same objects and as many queries.
        """
        mine, others = (
            "{1} objects at {0} layers in {2} images of {3} queries".format(*a.query.shape, a.num_images, a.num_queries)
            for a in (self, other)
        )
        if mine != others or not torch.equal(self.image, other.image):
            raise ValueError(
                f"The assignments must have the same images in order, layers and queries: {mine}, and {others}."
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model into evaluation mode within the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def predictions_by_layer(outputs: SamDetrObjectDetectionOutput) -> tuple[Tensor, Tensor]:
    """Logits `(B, layers, Q, K)` and boxes `(B, layers, Q, 4)` of every decoder layer.

    Raises:
        ValueError: the model returns the last layer's alone.
    """
    if outputs.auxiliary_outputs is None:
        raise ValueError("auxiliary_outputs=None: the model has to return every layer's, with auxiliary_loss=True.")
    layers = [*outputs.auxiliary_outputs, {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    return tuple(torch.stack([layer[name] for layer in layers], dim=1) for name in ("logits", "pred_boxes"))


@dataclass
class MatchedObjects:
    """The N objects of a batch that have a query, image by image, in each image as in its labels; `(layers, N)` each.

    Attributes:
        image: index of the object's image.
        query: index of its query in the image.
        target: index of the object among those of its image.
        boxes: `(B, T, 4)` of all objects, padded: center x, center y, width, height, normalised by the valid image.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    boxes: Tensor


def match_objects(
    model: SamDetrForObjectDetection, outputs: SamDetrObjectDetectionOutput, labels: list[Mapping[str, Tensor]]
) -> MatchedObjects:
    """Matches the predictions of each layer with the objects, as in the loss."""
    logits, boxes = predictions_by_layer(outputs)
    targets = prepare_targets(labels, len(logits), model.config.num_labels, logits.device)
    matches = match(logits, boxes, targets, model.config)
    # matches are in the order of the queries, which differs by layer
    order = torch.argsort(matches.image * targets.labels.shape[1] + matches.target, dim=1)
    image = matches.image.expand_as(order).gather(1, order)
    query, target = (pairs.gather(1, order) for pairs in (matches.query, matches.target))
    return MatchedObjects(image, query, target, targets.boxes)


@torch.no_grad()
def assign_queries(model: SamDetrForObjectDetection, batches: Iterable[Mapping[str, Any]]) -> Assignment:
    """Matches the objects of a set as the training loss does, with the model in evaluation mode.

    Args:
        model: its mode is restored.
        batches: the model's inputs, with `labels`.
    """
    queries, images, first = [], [], 0
    with evaluating(model):
        for batch in batches:
            labels = batch["labels"]
            outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
            objects = match_objects(model, outputs, labels)
            counts = torch.tensor([len(image["class_labels"]) for image in labels])
            starts = counts.cumsum(0) - counts
            found = torch.full((len(objects.query), int(counts.sum())), -1)
            found.scatter_(1, starts[objects.image.cpu()] + objects.target.cpu(), objects.query.cpu())
            queries.append(found)
            images.append(first + torch.arange(len(counts)).repeat_interleave(counts))
            first += len(counts)
    return Assignment(torch.cat(queries, dim=1), torch.cat(images), first, model.config.num_queries)


def changed_objects(before: Assignment, after: Assignment) -> Tensor:
    """`(layers,)`: the share of objects that are matched with another query than before; 0 without objects.

    Raises:
        ValueError: the assignments are not of the same objects.
    """
    before.check_comparable(after)
    return (before.query != after.query).double().sum(-1) / max(before.query.shape[1], 1)


def instability(before: Assignment, after: Assignment) -> Tensor:
    """`(layers,)`: DN-DETR's instability (section 3): queries of an image whose object is another, or none, now.

    An object that moves to a free query counts twice, for the query that it leaves and for the one that it takes.

    Raises:
        ValueError: the assignments are not of the same objects.
    """
    before.check_comparable(after)
    return (_objects_of_queries(before) != _objects_of_queries(after)).double().sum((1, 2)) / max(before.num_images, 1)


def _objects_of_queries(assignment: Assignment) -> Tensor:
    """`(layers, images, Q)`: the object of each query, -1 for none."""
    layers, objects = assignment.query.shape
    # a last column takes what has no query, and is cut off
    found = torch.full((layers, assignment.num_images, assignment.num_queries + 1), -1)
    columns = assignment.query.where(assignment.query >= 0, assignment.num_queries)
    found[torch.arange(layers)[:, None], assignment.image, columns] = torch.arange(objects)
    return found[..., :-1]


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
    """The sum of each matched query's cross-attention weights within its object's box.

    Queries are matched by each layer's predictions, as in the loss. A pixel of the feature map counts by the part of it
    that the box covers.

    Args:
        model: with or without aligner; it runs in evaluation mode with eager attention, and both are restored.
        batch: the model's inputs, with `labels`.

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
    """`attention_in_boxes` over a whole set.

    Args:
        model: with or without aligner.
        processor: of the model.
        pictures: images with objects, as `DetectionData.evaluation`.

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
    """A table: at each layer the mean shares in percent, and their ratio."""
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
    """Records the feature level that each decoder layer gets, within the block."""
    levels: list[FeatureLevel] = []
    layers = model.model.decoder.layers
    with removed_after(
        [layer.register_forward_pre_hook(lambda _, inputs: levels.append(inputs[4])) for layer in layers]
    ):
        yield levels


@contextmanager
def removed_after(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Removes the hooks at the end of the block."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _eager(model: SamDetrForObjectDetection) -> Iterator[None]:
    """Eager attention, which returns its weights, within the block."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


SPACES = ("features", "attention")
CrossAttention = SamDetrSharedKeyAttention | SamDetrAttention


@dataclass
class RegionSimilarity:
    """Cosine similarities in [-1, 1] of the query of each matched object, at each decoder layer.

    Attributes:
        region: `(layers, N)`, with the features within the object's box; objects image by image, as in the labels.
        image: `(layers, N)`, with all features of the object's image. Vectors that have a large part in common are
            alike everywhere; what tells places apart is by how much `region` is higher.
    """

    region: Tensor
    image: Tensor


@torch.no_grad()
def region_similarity(
    model: SamDetrForObjectDetection, batch: Mapping[str, Any], space: str = "features"
) -> RegionSimilarity:
    """Similarity of matched queries, as they enter cross-attention, and the encoded features of their objects' boxes.

    A query is matched at each layer by what it predicts there, as in the loss. Positions are left out on both sides.
    Cosines are taken with every single feature and averaged then, over places and heads, so that regions and whole
    images are treated alike.

    Args:
        model: with or without aligner; it runs in evaluation mode, and its mode is restored.
        batch: the model's inputs, with `labels`.
        space: `"features"`, that of the encoded features themselves, or `"attention"`, after the learned projections
            of queries and keys, head by head, where cross-attention compares.

    Raises:
        ValueError: there is no such space, or the model does not return every layer's predictions.
    """
    if space not in SPACES:
        raise ValueError(f"space={space!r} must be one of {', '.join(map(repr, SPACES))}.")
    with evaluating(model), recorded_levels(model) as levels, _recorded_queries(model) as queries:
        outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
    objects, found = match_objects(model, outputs, batch["labels"]), []
    for index, layer in enumerate(model.model.decoder.layers):
        image, query, target = objects.image[index], objects.query[index], objects.target[index]
        level = levels[index]
        regions = _regions(level, objects.boxes, model.config.roi_size)[image, target]  # (N, roi², C)
        content = queries[index][image, query]
        found.append(_similarities(layer.cross_attn, content, regions, level, image, space))
    region, whole = (torch.stack(values) for values in zip(*found, strict=True))
    return RegionSimilarity(region, whole)


@contextmanager
def _recorded_queries(model: SamDetrForObjectDetection) -> Iterator[list[Tensor]]:
    """Records the queries that cross-attention gets at each layer, `(B, Q, M, C)`; M is 1 where heads share them."""
    queries: list[Tensor] = []
    hooks = []
    for layer in model.model.decoder.layers:
        if layer.has_aligner:
            hooks.append(layer.aligner.register_forward_hook(lambda _, inputs, output: queries.append(output.content)))
        else:
            norm = layer.self_attn_layer_norm
            hooks.append(norm.register_forward_hook(lambda _, inputs, output: queries.append(output[:, :, None])))
    with removed_after(hooks):
        yield queries


def _regions(level: FeatureLevel, boxes: Tensor, size: int) -> Tensor:
    """`(B, T, size², C)`: features of a level within `(B, T, 4)` boxes, by RoIAlign as in the aligner."""
    feature_map = level.features.unflatten(1, level.size).float()
    corners = box_to_pixel_corners(boxes, level.valid_size)
    return region_align(feature_map, corners, size).flatten(2, 3)


def _similarities(
    attention: CrossAttention, queries: Tensor, regions: Tensor, level: FeatureLevel, image: Tensor, space: str
) -> tuple[Tensor, Tensor]:
    """`(N,)` each, with the region and with the whole image, of `(N, M, C)` queries and `(N, S, C)` regions."""
    if space == "attention":
        queries, regions = _project_queries(attention, queries), _project_features(attention, regions)
        features = _project_features(attention, level.features)
    else:
        regions, features = regions[..., None, :], level.features[..., None, :]
    valid = level.mask.flatten(1)[..., None, None]  # (B, S, 1, 1)
    # a mean of cosines is the product with the mean of directions
    of_regions = _directions(regions).mean(1)  # (N, M or 1, D)
    of_images = (_directions(features) * valid).sum(1) / valid.sum(1)  # (B, M or 1, D)
    directions = _directions(queries)
    return tuple((directions * others).sum(-1).mean(1) for others in (of_regions, of_images[image]))


def _directions(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=-1)


def _project_queries(attention: CrossAttention, queries: Tensor) -> Tensor:
    """`(N, M or 1, C)` to `(N, M, D)`, what each head compares with the keys, without positions."""
    if isinstance(attention, SamDetrSharedKeyAttention):
        return attention.q_content_proj(queries)
    return attention.q_proj(queries).unflatten(-1, (attention.num_heads, -1)).squeeze(1)


def _project_features(attention: CrossAttention, features: Tensor) -> Tensor:
    """`(N, S, C)` to `(N, S, M or 1, D)`: the keys, one for all heads or one for each, without positions."""
    if isinstance(attention, SamDetrSharedKeyAttention):
        return attention.k_content_proj(features)[..., None, :]
    return attention.k_proj(features).unflatten(-1, (attention.num_heads, -1))
