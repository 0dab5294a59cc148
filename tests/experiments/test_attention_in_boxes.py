"""Attention of known places, and what is known of any: even attention has the share of the area."""

import pytest
import torch

from experiments import matched_queries
from experiments.matched_queries import (
    AttentionInBoxes,
    attention_in_boxes,
    attention_in_set,
    attention_summary,
    covered_parts,
)
from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.backbone import FeatureLevel, valid_ratio, valid_size
from transformers_samdetr.data import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes

from ..models import MULTI_SCALE
from ..padded_pictures import COUNTS, padded_batch, small_model

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
