"""Reference boxes from a training set: in the middle of its objects, whatever the set, and where training starts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.training import RECIPES, Recipe, Trainer, load_model_and_processor
from transformers_samdetr.training.start import boxes_of_objects

from ..models import tiny_model
from ..training_runs import NAMES, pictures


def a_set(*boxes: list[list[float]], crowd: int = 0, width: int = 200, height: int = 100) -> Dataset:
    """A picture for each list of (x, y, width, height) in pixels; pictures that cannot be read."""
    rows = [
        {
            "image": {"bytes": b"no picture", "path": None},
            **{"image_id": index, "width": width, "height": height},
            "objects": {
                **{"id": list(range(len(own))), "area": [w * h for _, _, w, h in own], "bbox": own},
                **{"category": [0] * len(own), "iscrowd": [crowd] * len(own)},
            },
        }
        for index, own in enumerate(boxes)
    ]
    return Dataset.from_list(rows, features=detection_features(["thing"]))


def test_each_group_of_objects_gets_a_box_in_its_middle():
    places = np.array([[20, 10, 20, 10], [120, 60, 60, 30], [40, 70, 10, 20]])
    moved = places[None] + np.random.default_rng(0).uniform(-1, 1, (30, 3, 4))
    found = boxes_of_objects(a_set(*moved.tolist()), 3)
    found = found[found[:, 2].argsort()]
    expected = torch.tensor([[0.225, 0.8, 0.05, 0.2], [0.15, 0.15, 0.1, 0.1], [0.75, 0.75, 0.3, 0.3]])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("boxes", [[[20, 10, 20, 10]], [[20, 10, 20, 10], [0, 0, 200, 100]], [[20, 10, 20, 10]] * 99])
def test_few_objects_give_as_many_boxes_and_no_two_alike(boxes):
    found = boxes_of_objects(a_set(boxes, []), 12)
    assert found.shape == (12, 4) and ((found >= 0) & (found <= 1)).all()
    assert len(found.unique(dim=0)) == 12


def test_the_seed_decides():
    data = pictures(6, seed=0)
    assert torch.equal(boxes_of_objects(data, 4, seed=1), boxes_of_objects(data, 4, seed=1))
    assert not torch.equal(boxes_of_objects(data, 4, seed=1), boxes_of_objects(data, 4, seed=2))


@pytest.mark.parametrize("data", [a_set([], []), a_set([[20, 10, 20, 10]], crowd=1)])
def test_a_set_without_objects_is_refused(data):
    with pytest.raises(ValueError, match="the set has no objects; choose initial_boxes='auto' or 'model'"):
        boxes_of_objects(data, 4)


def test_a_stream_is_refused():
    with pytest.raises(ValueError, match="which a stream has not: choose initial_boxes='auto' or 'model'"):
        boxes_of_objects(a_set([[20, 10, 20, 10]]).to_iterable_dataset(), 4)


WITHOUT_BOXES = {"query_resampling": "none", "smca": False, "num_denoising_groups": 0}


def boxes_at_the_start(train=None, model="sam-detr-tiny", **fields) -> torch.Tensor | None:
    """Reference boxes of the model that training starts from."""
    overrides = {"num_queries": 8} if model == "sam-detr-tiny" else {}
    overrides |= fields.pop("overrides", {})
    recipe = replace(RECIPES["tiny"], model=model, model_overrides=overrides, backbone_weights=None, **fields)
    return load_model_and_processor(recipe, NAMES, train=train)[0].model.query_reference_boxes


def test_the_small_recipe_starts_a_new_model_where_the_objects_lie():
    data = pictures(6, seed=0)
    drawn = boxes_at_the_start(data, initial_boxes="model", seed=3)
    for choice in ("auto", "training_set"):
        boxes = boxes_at_the_start(data, initial_boxes=choice, seed=3)
        expected = boxes_of_objects(data, len(boxes), seed=3)
        torch.testing.assert_close(boxes.sigmoid(), expected, rtol=0, atol=2e-5)
        assert not torch.equal(boxes, drawn)
    assert torch.equal(boxes_at_the_start(data, seed=3), boxes_at_the_start(data, initial_boxes="auto", seed=3))


def test_nothing_else_of_the_model_differs():
    data, recipe = pictures(6, seed=0), replace(RECIPES["tiny"], backbone_weights=None)
    ours, drawn = (
        load_model_and_processor(replace(recipe, initial_boxes=choice), NAMES, train=data)[0].state_dict()
        for choice in ("auto", "model")
    )
    assert [name for name in ours if not torch.equal(ours[name], drawn[name])] == ["model.query_reference_boxes"]


def test_where_nothing_else_is_possible_auto_is_the_models_own():
    data = pictures(6, seed=0)
    drawn = boxes_at_the_start(data, initial_boxes="model")
    assert torch.equal(boxes_at_the_start(), drawn)
    assert torch.equal(boxes_at_the_start(data.to_iterable_dataset()), drawn)
    assert torch.equal(boxes_at_the_start(a_set([], [])), drawn)
    assert boxes_at_the_start(data, overrides=WITHOUT_BOXES) is None


def test_a_checkpoint_keeps_its_boxes_unless_others_are_asked_for(tmp_path):
    model, data = tiny_model(), pictures(6, seed=0)
    model.save_pretrained(tmp_path)
    SamDetrImageProcessor().save_pretrained(tmp_path)
    learned = model.model.query_reference_boxes
    assert torch.equal(boxes_at_the_start(data, str(tmp_path)), learned)
    assert not torch.equal(boxes_at_the_start(data, str(tmp_path), initial_boxes="training_set"), learned)


def test_a_checkpoint_with_another_number_of_queries_has_none_to_keep(tmp_path):
    data = pictures(6, seed=0)
    tiny_model().save_pretrained(tmp_path)
    SamDetrImageProcessor().save_pretrained(tmp_path)
    boxes = boxes_at_the_start(data, str(tmp_path), overrides={"num_queries": 9})
    torch.testing.assert_close(boxes.sigmoid(), boxes_of_objects(data, 9), rtol=0, atol=2e-5)


def test_the_papers_recipes_start_as_the_paper_does():
    starts = {name: recipe.initial_boxes for name, recipe in RECIPES.items() if recipe.model != "sam-detr-tiny"}
    assert set(starts.values()) == {"model"} and len(starts) >= 20


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_training_starts_from_them(decay, tmp_path):
    data = pictures(6, seed=0)
    recipe = replace(RECIPES["tiny"], backbone_weights=None, ema_decay=decay, trackers="none")
    model, processor = load_model_and_processor(recipe, NAMES, train=data)
    trainer = Trainer(model, processor, data, data, recipe, tmp_path)
    expected = boxes_of_objects(data, model.config.num_queries)
    for each in (trainer.model, *([trainer.average.module] if decay else [])):
        torch.testing.assert_close(each.model.query_reference_boxes.sigmoid(), expected, rtol=0, atol=2e-5)


def test_a_model_without_reference_boxes_says_so():
    with pytest.raises(ValueError, match="no reference boxes"):
        boxes_at_the_start(pictures(6, seed=0), initial_boxes="training_set", overrides=WITHOUT_BOXES)


def test_without_a_set_there_is_none_to_start_from():
    with pytest.raises(ValueError, match="needs the training set: give it as train="):
        boxes_at_the_start(initial_boxes="training_set")


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="'data' is not possible: choose one of 'auto', 'model', 'training_set'"):
        Recipe(initial_boxes="data")


def test_a_large_set_is_sampled(monkeypatch):
    """5000 different pictures in their order, however many there are."""
    data, chosen = a_set(*[[[20, 10, 20, 10]]] * 5002), []
    select = Dataset.select
    monkeypatch.setattr(Dataset, "select", lambda self, rows: chosen.extend(rows) or select(self, rows))
    boxes_of_objects(data, 2)
    assert len(chosen) == 5000 == len(set(chosen)) and chosen == sorted(chosen)
