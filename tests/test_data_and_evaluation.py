import json

import numpy as np
import pytest
import torch

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.augment import make_augmentation
from transformers_samdetr.data.batch import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.training import Recipe, Trainer

from .models import tiny_model


@pytest.fixture(scope="module")
def scenes():
    return build_digit_scenes(num_train=4, num_eval=3, size=96, seed=3)


def test_scenes_are_a_function_of_the_seed(scenes):
    again = build_digit_scenes(num_train=2, num_eval=1, size=96, seed=3)
    assert again["train"][1]["objects"] == scenes["train"][1]["objects"]
    assert np.array_equal(np.asarray(again["train"][1]["image"]), np.asarray(scenes["train"][1]["image"]))
    other = build_digit_scenes(num_train=1, num_eval=1, size=96, seed=4)
    assert other["train"][0]["objects"] != scenes["train"][0]["objects"]
    for example in scenes["train"]:
        for x, y, w, h in example["objects"]["bbox"]:
            assert 0 <= x and 0 <= y and x + w <= 96 and y + h <= 96 and min(w, h) > 0


def test_scenes_too_small_are_refused():
    with pytest.raises(ValueError, match="size=32"):
        build_digit_scenes(size=32)


def test_training_saves_a_model_that_loads(scenes, tmp_path):
    model = tiny_model(num_labels=10)
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    recipe = Recipe(epochs=1, batch_size=2)
    before = model.class_heads[0].weight.detach().clone()
    metrics = Trainer(model, processor, scenes["train"], scenes["validation"], recipe, tmp_path).train()
    assert 0 <= metrics["AP"] <= 100
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["epoch"] == 1 and line["train_loss"] > 0
    loaded = type(model).from_pretrained(tmp_path)
    assert not torch.equal(loaded.class_heads[0].weight, before)
    assert torch.equal(loaded.class_heads[0].weight, model.class_heads[0].weight)


def test_batches_hold_what_the_model_takes(scenes):
    dataset = DetectionDataset(scenes["train"], make_augmentation("strong"))
    batch = DetectionCollator(SamDetrImageProcessor(size={"height": 64, "width": 64}))([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 3, 64, 64) and set(batch) == {"pixel_values", "pixel_mask", "labels"}
    first = dataset[0][0].tobytes()
    assert dataset[0][0].tobytes() == first
