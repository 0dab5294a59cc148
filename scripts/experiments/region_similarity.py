"""How alike queries are to the features they are to be matched with (the argument of paper section 4.2 and Fig. 2).

Cross-attention weighs features by a dot product with the queries, which means something where both are in one space.
The aligner re-samples queries from the features; without it they come from self-attention, out of another space.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transformers_samdetr.attention import SamDetrAttention, SamDetrSharedKeyAttention
from transformers_samdetr.backbone import FeatureLevel
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection
from transformers_samdetr.region_features import extract_region_features

from .attention_in_boxes import recorded_levels, removed_after
from .match_stability import evaluating, match_objects

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
        batch: what the model takes, with `labels`.
        space: `"features"`, that of the encoded features themselves, or `"attention"`, after the learned projections
            of queries and keys, head by head, where cross-attention compares.

    Raises:
        ValueError: there is no such space, or the model does not return every layer's predictions.
    """
    if space not in SPACES:
        raise ValueError(f"space={space!r} is not possible: choose one of {', '.join(map(repr, SPACES))}.")
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
    """What cross-attention is given at each layer: queries `(B, Q, M, C)`, 1 for M where heads share them."""
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
    feature_map = level.features.unflatten(1, level.size)
    return extract_region_features([feature_map], boxes, level.valid_size, size)[0].flatten(2, 3)


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
