"""Matching stability, attention within the object's box, and similarity of queries to their regions."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from experiments import matched_queries
from experiments.matched_queries import (
    Assignment,
    AttentionInBoxes,
    assign_queries,
    attention_in_boxes,
    attention_in_set,
    attention_summary,
    changed_objects,
    covered_parts,
    instability,
    predictions_by_layer,
    region_similarity,
)
from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.backbone import FeatureLevel, valid_ratio, valid_size
from transformers_samdetr.data import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.geometry import center_to_corners
from transformers_samdetr.loss import match, prepare_targets

from ..models import MULTI_SCALE, SMALL_BACKBONE, targets, tiny_model
from ..padded_pictures import COUNTS, padded_batch, small_model


def assignment(*layers: list[int], images: int = 3, queries: int = 4) -> Assignment:
    """Two objects in the first image, none in the second, one in the third."""
    return Assignment(torch.tensor(layers), torch.tensor([0, 0, 2]), images, queries)


def test_changes_by_hand():
    before = assignment([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, -1, 2])
    # nothing; two objects exchange their queries; one moves to a free query; one has a query at last
    after = assignment([0, 1, 2], [1, 0, 2], [0, 3, 2], [0, 3, 2])
    assert changed_objects(before, after).tolist() == pytest.approx([0, 2 / 3, 1 / 3, 1 / 3])
    # an exchange concerns two queries, as does a move; one taken by an object that had none concerns one
    assert instability(before, after).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 1 / 3])
    assert torch.equal(changed_objects(after, before), changed_objects(before, after))
    assert torch.equal(instability(after, before), instability(before, after))


def test_the_same_query_of_another_image_is_another_query():
    before, after = assignment([0, 1, 1]), assignment([0, 2, 1])
    assert changed_objects(before, after).tolist() == pytest.approx([1 / 3])
    assert instability(before, after).tolist() == pytest.approx([2 / 3])


def test_nothing_changes_without_objects():
    none = Assignment(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 3, 4)
    assert changed_objects(none, none).tolist() == instability(none, none).tolist() == [0, 0]


def test_other_objects_are_refused():
    before = assignment([0, 1, 2])
    for other in (
        assignment([0, 1, 2], [0, 1, 2]),
        assignment([0, 1, 2], queries=5),
        Assignment(torch.tensor([[0, 1, 2]]), torch.tensor([0, 1, 2]), 3, 4),
    ):
        with pytest.raises(
            ValueError,
            match="must have the same images in order, .*3 objects at 1 layers in 3 images",
        ):
            changed_objects(before, other)


def test_a_model_is_matched_as_in_its_loss():
    model = tiny_model(backbone_config=SMALL_BACKBONE, num_queries=4).train()
    torch.manual_seed(1)
    batches = [
        {"pixel_values": torch.randn(len(counts), 3, 64, 64), "labels": targets(*counts, seed=seed)}
        for seed, counts in enumerate([(2, 0, 4), (1, 6)])  # the last image has more objects than queries
    ]
    with pytest.warns(UserWarning, match="more than the 4 queries"):
        found = assign_queries(model, batches)
    assert model.training
    assert found.image.tolist() == [0, 0, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4]
    assert (found.num_images, found.num_queries, found.query.shape) == (5, 4, (3, 13))
    assert (found.query < 0).sum(-1).tolist() == [2, 2, 2]
    model.eval()
    with torch.no_grad():
        logits, boxes = predictions_by_layer(model(batches[0]["pixel_values"]))
    matches = match(logits, boxes, prepare_targets(batches[0]["labels"], 3, 5, logits.device), model.config)
    first = {0: 0, 2: 2}  # of the objects of an image
    for layer in range(3):
        pairs = zip(matches.image.tolist(), matches.query[layer].tolist(), matches.target[layer].tolist(), strict=True)
        for image, query, target in pairs:
            assert found.query[layer, first[image] + target] == query
    assert not instability(found, found).any()


def test_without_every_layer_there_is_nothing_to_compare():
    model = tiny_model(backbone_config=SMALL_BACKBONE, auxiliary_loss=False)
    with pytest.raises(ValueError, match="auxiliary_loss=True"):
        predictions_by_layer(model(torch.randn(1, 3, 64, 64)))


NO_ALIGNER = {"query_resampling": "none"}


def test_parts_of_pixels_by_hand():
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[..., 3:] = False  # three valid columns
    zeros, ratio = torch.zeros(1, 8, 1), valid_ratio(mask)
    level = FeatureLevel(zeros, zeros, mask, ratio, valid_size(ratio, (2, 4)), (2, 4))
    # x from 0.5 to 2 of 3 columns, y from 0 to 1.5 of 2 rows
    box = torch.tensor([[1.25 / 3, 0.75 / 2, 1.5 / 3, 1.5 / 2]])
    found = covered_parts(box, level, torch.tensor([0]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 1, 0, 0, 0.25, 0.5, 0, 0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fields", [{}, NO_ALIGNER, MULTI_SCALE])
def test_even_attention_has_the_share_of_the_area(fields):
    model = small_model(**fields)
    for layer in model.model.decoder.layers:
        for name, parameter in layer.cross_attn.named_parameters():
            if name.startswith("q"):
                torch.nn.init.zeros_(parameter)
    found = attention_in_boxes(model, padded_batch())
    assert found.weight.shape == found.area.shape == (3, sum(COUNTS)) and (found.area > 0).all()
    torch.testing.assert_close(found.weight, found.area, atol=1e-5, rtol=0)


def test_attention_to_one_pixel_is_in_the_boxes_that_hold_it():
    model, batch = small_model(), padded_batch()
    batch["pixel_mask"] = torch.ones_like(batch["pixel_mask"])

    def look(module, inputs, output):
        weights = torch.zeros_like(output[1])
        weights[..., 6] = 1  # of 4 x 5 pixels the one from (1, 1) to (2, 2)
        return output[0], weights

    for layer in model.model.decoder.layers:
        layer.cross_attn.register_forward_hook(look)
    for labels in batch["labels"]:
        labels["boxes"][:] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    assert (attention_in_boxes(model, batch).weight == 1).all()
    for labels in batch["labels"]:
        labels["boxes"][:] = torch.tensor([0.25, 0.5, 0.5, 1.0])  # ends in the middle of column 2
    torch.testing.assert_close(attention_in_boxes(model, batch).area, torch.full((3, 5), 0.5))
    for labels in batch["labels"]:
        labels["boxes"][:] = torch.tensor([0.15, 0.5, 0.3, 1.0])  # ends in the middle of column 1
    torch.testing.assert_close(attention_in_boxes(model, batch).weight, torch.full((3, 5), 0.5))


def test_a_set_is_read_in_batches(monkeypatch):
    scenes = build_digit_scenes(5, 1, size=64)["train"]
    model, processor = small_model(num_labels=10), SamDetrImageProcessor(size={"height": 64, "width": 64})
    whole = attention_in_boxes(model, DetectionCollator(processor)(list(DetectionDataset(scenes))))
    monkeypatch.setattr(matched_queries, "BATCH", 2)
    found = attention_in_set(model, processor, scenes)
    torch.testing.assert_close(found.weight, whole.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.area, whole.area)
    lines = attention_summary(AttentionInBoxes(torch.full((2, 4), 0.1), torch.full((2, 4), 0.04))).splitlines()
    assert lines[2:] == ["| 1 | 10.0 | 4.0 | 2.5 |", "| 2 | 10.0 | 4.0 | 2.5 |"]


def test_a_set_without_objects_is_refused():
    empty = build_digit_scenes(2, 1, size=64)["train"].map(
        lambda example: {"objects": {name: [] for name in example["objects"]}}
    )
    with pytest.raises(ValueError, match="None of the 2 pictures has an object"):
        attention_in_set(small_model(num_labels=10), SamDetrImageProcessor(size={"height": 64, "width": 64}), empty)


@pytest.mark.parametrize("fields", [{}, NO_ALIGNER])
def test_the_model_is_as_it_was(fields):
    model = small_model(**fields).train()
    implementation, before = model.config._attn_implementation, {k: v.clone() for k, v in model.state_dict().items()}
    assert implementation != "eager"
    attention_in_boxes(model, padded_batch())
    assert model.training and model.config._attn_implementation == implementation
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


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
    with pytest.raises(ValueError, match="space='pixels' must be one of 'features', 'attention'"):
        region_similarity(small_model(), padded_batch(), "pixels")
