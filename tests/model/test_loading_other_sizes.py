"""Checkpoints for another number of classes or queries: what is kept, what starts anew, and what is reported."""

import math

import pytest
import torch

from transformers_samdetr import SamDetrForObjectDetection

from ..models import targets, tiny_model

PRIOR_BIAS = -math.log(99)


@pytest.fixture
def saved(tmp_path):
    model = tiny_model(num_denoising_groups=2)
    with torch.no_grad():
        for head in model.class_heads:
            head.bias += 1  # trained
    model.save_pretrained(tmp_path)
    return model, tmp_path


def load(folder, **fields) -> tuple[SamDetrForObjectDetection, set[str]]:
    """The model, and the names that the load report lists as reset."""
    model, report = SamDetrForObjectDetection.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True, **fields
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["error_msgs"]
    return model, {name for name, *_ in report["mismatched_keys"]}


def test_another_number_of_classes(saved):
    model, folder = saved
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SamDetrForObjectDetection.from_pretrained(folder, num_labels=3)
    loaded, reset = load(folder, num_labels=3)
    heads = {f"class_heads.{layer}.{leaf}" for layer in range(3) for leaf in ("weight", "bias")}
    assert reset == heads | {"model.label_embedding.weight"}
    for head in loaded.class_heads:
        torch.testing.assert_close(head.bias, torch.full((3,), PRIOR_BIAS))
        assert head.weight.shape == (3, 32) and 0.1 < head.weight.std() < 0.5  # Xavier's is 0.24
    assert loaded.model.label_embedding.weight.shape == (4, 31) and loaded.model.label_embedding.weight.std() > 0.01
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours.keys() - reset)
    loss = loaded.train()(torch.randn(1, 3, 64, 64), labels=targets(2, num_labels=3)).loss
    assert torch.isfinite(loss)


@pytest.mark.parametrize("count", [5, 20])
def test_another_number_of_queries(saved, count):
    model, folder = saved
    loaded, reset = load(folder, num_queries=count)
    assert reset == {"model.query_reference_boxes"}
    boxes = loaded.model.query_reference_boxes
    assert boxes.shape == (count, 4) and 0.5 < boxes.std() < 1.5  # N(0, 1)
    assert torch.equal(loaded.class_heads[0].bias, model.class_heads[0].bias)
    assert loaded(torch.randn(1, 3, 64, 64)).logits.shape == (1, count, 5)
    # those of the checkpoint are kept by loading them first and resizing then
    resized = SamDetrForObjectDetection.from_pretrained(folder)
    resized.resize_num_queries(count)
    kept = min(count, 12)
    assert torch.equal(resized.model.query_reference_boxes[:kept], model.model.query_reference_boxes[:kept])


@pytest.mark.parametrize("count", [5, 20])
def test_a_resized_model_saves_and_loads(saved, tmp_path, count):
    model, _ = saved
    model.resize_num_queries(count)
    model.save_pretrained(tmp_path / "resized")
    loaded = SamDetrForObjectDetection.from_pretrained(tmp_path / "resized").eval()
    pixels = torch.randn(1, 3, 64, 64)
    assert loaded.config.num_queries == count and torch.equal(loaded(pixels).logits, model(pixels).logits)


@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        ({}, True),
        ({"num_labels": 5}, True),
        ({"num_labels": 3}, False),
        ({"id2label": {"0": "cat", "1": "dog"}}, False),  # keys as JSON has them
        ({"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}}, False),
    ],
)
def test_what_training_saved_of_other_classes_is_dropped(saved, classes, kept):
    model, folder = saved
    model.config.category_ids, model.config.detection_threshold = [3, 5, 7, 8, 9], 0.4
    model.save_pretrained(folder)
    config = load(folder, **classes)[0].config
    assert getattr(config, "category_ids", None) == ([3, 5, 7, 8, 9] if kept else None)
    assert getattr(config, "detection_threshold", None) == (0.4 if kept else None)
    assert list(config.id2label) == list(range(config.num_labels))


def test_class_names_may_have_the_keys_of_json(saved):
    model, _ = saved
    model.config.id2label = {"0": "cat", "1": "dog"}
    assert model.config.id2label == {0: "cat", 1: "dog"}
