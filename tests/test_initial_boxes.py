"""Reference boxes from a training set: in the middle of its objects, whatever the set, and where training starts."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.training import Recipe, Trainer
from transformers_samdetr.training.initial_boxes import boxes_of_objects

from .models import tiny_model
from .training_runs import pictures


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
    with pytest.raises(ValueError, match="the set has no objects; leave initial_boxes='model'"):
        boxes_of_objects(data, 4)


def test_a_stream_is_refused():
    with pytest.raises(ValueError, match="which a stream has not: leave initial_boxes='model'"):
        boxes_of_objects(a_set([[20, 10, 20, 10]]).to_iterable_dataset(), 4)


def trainer_of(model, folder, **fields) -> Trainer:
    processor, data = SamDetrImageProcessor(size={"height": 64, "width": 64}), pictures(6, seed=0)
    return Trainer(model, processor, data, data, Recipe(**fields), folder)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_training_starts_from_them_if_it_is_asked_to(decay, tmp_path):
    model = tiny_model()
    before = model.model.query_reference_boxes.clone()
    trainer_of(model, tmp_path, ema_decay=decay)
    assert torch.equal(model.model.query_reference_boxes, before)
    trainer = trainer_of(model, tmp_path, ema_decay=decay, initial_boxes="training_set", seed=3)
    expected = boxes_of_objects(pictures(6, seed=0), model.config.num_queries, seed=3)
    for each in (model, *([trainer.average.module] if decay else [])):
        torch.testing.assert_close(each.model.query_reference_boxes.sigmoid(), expected, rtol=0, atol=2e-5)


def test_a_model_without_reference_boxes_says_so(tmp_path):
    with pytest.raises(ValueError, match="no reference boxes"):
        trainer_of(tiny_model(query_resampling="none"), tmp_path, initial_boxes="training_set")


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="initial_boxes='data' is not possible: choose one of 'model', 'training_set'"):
        Recipe(initial_boxes="data")
