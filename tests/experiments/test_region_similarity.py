"""Similarities of cases that are known, and one by one against what the function computes at once."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from experiments.matched_queries import predictions_by_layer, region_similarity
from transformers_samdetr.geometry import center_to_corners
from transformers_samdetr.loss import match, prepare_targets

from ..models import MULTI_SCALE
from ..padded_pictures import COUNTS, padded_batch, small_model


@pytest.mark.parametrize("space", ["features", "attention"])
@pytest.mark.parametrize("fields", [{"query_resampling": "none"}, MULTI_SCALE])
def test_there_is_a_number_for_each_object_and_layer(fields, space):
    model = small_model(**fields).train()
    found = region_similarity(model, padded_batch(), space)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    for values in (found.region, found.image):
        assert values.shape == (3, sum(COUNTS)) and (values.abs() <= 1 + 1e-6).all() and values.std() > 0
    # in another order of the images every object keeps its own number
    batch = padded_batch()
    turned = {name: values[::-1] if name == "labels" else values.flip(0) for name, values in batch.items()}
    again = region_similarity(model, turned, space)
    torch.testing.assert_close(again.region, found.region.roll(2, dims=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.image, found.image.roll(2, dims=1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("space", ["features", "attention"])
@pytest.mark.parametrize("resampling", ["average", "none"])
def test_one_object_after_the_other(resampling, space):
    """The last layer's numbers, from the inputs of its cross-attention and torchvision's RoIAlign."""
    model, batch = small_model(query_resampling=resampling), padded_batch()
    layer, seen = model.model.decoder.layers[-1], []
    layer.cross_attn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    found = region_similarity(model, batch, space)
    first, second, third = seen[0][:3]
    if resampling == "none":
        content, features = (first - model.model.query_positions)[:, :, None], third  # (B, Q, 1, C)
    else:
        content, features = first, third  # (B, Q, M, C)
    mask = batch["pixel_mask"][:, ::32, ::32].bool()  # (B, 4, 5)
    maps = features.unflatten(1, mask.shape[1:]).permute(0, 3, 1, 2)
    logits, boxes = predictions_by_layer(model(batch["pixel_values"], batch["pixel_mask"]))
    matches = match(logits, boxes, prepare_targets(batch["labels"], 3, 5, logits.device), model.config)

    place = 0
    for image, count in enumerate(COUNTS):
        size = torch.tensor([mask[image, 0].sum(), mask[image, :, 0].sum()]).repeat(2)
        corners = center_to_corners(batch["labels"][image]["boxes"]) * size
        regions = roi_align(maps[image : image + 1], [corners], 7, aligned=True).flatten(2).transpose(1, 2)
        for target in range(count):
            pair = (matches.image == image) & (matches.target[-1] == target)
            queries = content[image, matches.query[-1][pair].item()]  # (M or 1, C)
            for keys, value in ((regions[target], found.region), (features[image][mask[image].flatten()], found.image)):
                expected = mean_cosine(layer.cross_attn, queries, keys, space)
                assert value[-1, place].item() == pytest.approx(expected, abs=2e-5)
            place += 1


def mean_cosine(attention: nn.Module, queries: torch.Tensor, keys: torch.Tensor, space: str) -> float:
    """Over all pairs of `(M or 1, C)` queries and `(S, C)` keys, in a loop over the heads."""
    cosine = nn.functional.cosine_similarity
    if space == "features":
        return torch.stack([cosine(query, keys, dim=-1).mean() for query in queries]).mean().item()
    if hasattr(attention, "q_content_proj"):
        keys = attention.k_content_proj(keys)
        queries = attention.q_content_proj(queries)
        return torch.stack([cosine(query, keys, dim=-1).mean() for query in queries]).mean().item()
    (query,) = attention.q_proj(queries)
    heads = zip(query.chunk(8), attention.k_proj(keys).chunk(8, dim=-1), strict=True)
    return torch.stack([cosine(mine, others, dim=-1).mean() for mine, others in heads]).mean().item()


def test_equal_features_are_found_equal():
    """Queries that are pooled from a map that is the same everywhere point where it points."""

    def make_alike(module, inputs, output):
        output.last_hidden_state.copy_(torch.linspace(-1, 2, 32))

    model = small_model(query_resampling="average", feature_reweighting=False)
    model.model.encoder.register_forward_hook(make_alike)
    found = region_similarity(model, {**padded_batch(), "pixel_mask": None})
    torch.testing.assert_close(found.region, torch.ones(3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.image, torch.ones(3, 5), atol=1e-5, rtol=0)


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="space='pixels' is not possible: choose one of 'features', 'attention'"):
        region_similarity(small_model(), padded_batch(), "pixels")
