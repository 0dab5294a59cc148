"""Imbalanced sets: weights of classes in the loss, and pictures of rare classes more often, also after a resume."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset

from transformers_samdetr import SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.schema import detection_features
from transformers_samdetr.training import Recipe, Trainer
from transformers_samdetr.training.balance import MOST, class_weights, repeat_factors
from transformers_samdetr.training.order import ProcessBatches, RepeatedOrder, WindowOrder, training_examples

from ..models import SMALL_BACKBONE, tiny_model
from ..training_runs import NAMES, pictures, run_training


def a_set(*labels: list[int], names=("car", "bus", "tram"), crowds=()) -> Dataset:
    """A picture for each list of labels; those of `crowds` have crowd regions alone. Pictures cannot be read."""
    rows = [
        {
            "image": {"bytes": b"no picture", "path": None},
            **{"image_id": index, "width": 64, "height": 64},
            "objects": {
                **{"id": list(range(len(own))), "area": [100.0] * len(own), "bbox": [[4, 4, 10, 10]] * len(own)},
                **{"category": own, "iscrowd": [int(index in crowds)] * len(own)},
            },
        }
        for index, own in enumerate(labels)
    ]
    return Dataset.from_list(rows, features=detection_features(list(names)))


IMBALANCED = a_set(*[[0, 0]] * 60, *[[0, 1]] * 30, *[[2]] * 4, *[[]] * 6)
"""A hundred pictures: `car` in 90, `bus` in 30, `tram` in 4, none in 6."""


def test_repeat_factors_follow_the_equation():
    factors = repeat_factors(IMBALANCED, 3)
    of = {"car": 1.0, "bus": (1 / 3 / 0.30) ** 0.5, "tram": (1 / 3 / 0.04) ** 0.5}
    assert factors == pytest.approx([1.0] * 60 + [of["bus"]] * 30 + [of["tram"]] * 4 + [1.0] * 6)
    assert repeat_factors(IMBALANCED.select(range(99, -1, -1)), 3) == pytest.approx(factors[::-1])
    # without a rare class, without any object, and of one class all come once; a crowd region is no object
    for data in (a_set([0], [1], [2]), a_set([], []), a_set([0], [0], [], names=["car"])):
        assert repeat_factors(data, len(data.features["objects"]["category"].feature.names)).tolist() == [1.0] * len(
            data
        )
    assert repeat_factors(a_set(*[[0]] * 9, [1], crowds=[9]), 3).tolist() == [1.0] * 10


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_becomes_at_most_twice_as_long(seed):
    random = np.random.default_rng(seed)
    shares = random.random(12) ** 6
    labels = [np.flatnonzero(random.random(12) < shares).tolist() for _ in range(200)]
    factors = repeat_factors(a_set(*labels, names=[str(label) for label in range(12)]), 12)
    assert 200 <= factors.sum() <= 400 and factors.min() == 1


def epochs(order: WindowOrder, count: int) -> list[list[int]]:
    return [[number for window in order.windows(epoch) for number in window] for epoch in range(count)]


def test_rare_classes_come_more_often_and_every_picture_comes():
    factors = repeat_factors(IMBALANCED, 3)
    order = RepeatedOrder(factors, 8, seed=3)
    found = epochs(order, 60)
    assert {len(epoch) for epoch in found} == {order.num_images} and abs(order.num_images - factors.sum()) < 1
    assert order.steps_per_epoch == -(-order.num_images // 8)
    for epoch in found:
        times = Counter(number % 100 for number in epoch)
        assert all(int(factor) <= times[row] <= int(factor) + 1 for row, factor in enumerate(factors))
        # the r-th time of an image has a number of its own, for augmentation
        assert len(set(epoch)) == len(epoch) and {n % 100 + 100 * r for n in times for r in range(times[n])} == set(
            epoch
        )
    means = np.bincount([number % 100 for epoch in found for number in epoch]) / 60
    assert means[90:94] == pytest.approx(factors[90:94], abs=0.3) and means[:60] == pytest.approx(1.0)
    assert found[0] != found[1] and found == epochs(RepeatedOrder(factors, 8, seed=3), 60)
    assert found[0] != epochs(RepeatedOrder(factors, 8, seed=4), 1)[0]


def test_the_last_place_that_is_drawn_may_round_up_to_the_end(monkeypatch):
    order = RepeatedOrder(np.full(6, 1.5), batch_size=3)
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.tensor(1 - 2**-53, dtype=torch.float64))
    images = [image % 6 for image in order.permutation(0)]
    assert len(images) == 9 and set(images) == set(range(6))


@pytest.mark.parametrize(("processes", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_resumes_see_the_same_order(processes, accumulation):
    factors, slots = repeat_factors(IMBALANCED, 3), processes * accumulation
    alone = list(RepeatedOrder(factors, 8).windows(2))
    for start in (0, 5):
        shares = [
            list(ProcessBatches(RepeatedOrder(factors, 8, slots), 2, start, rank, processes))
            for rank in range(processes)
        ]
        for step, window in enumerate(alone[start:-1]):
            parts = [shares[slot % processes][step * accumulation + slot // processes] for slot in range(slots)]
            assert [number for part in parts for number in part] == window


def test_each_time_a_picture_comes_it_is_augmented_in_another_way():
    data, processor = pictures(6, 0), SamDetrImageProcessor(size={"height": 64, "width": 64})
    recipe = Recipe(sampling="balanced", augmentation="strong", batch_size=2)
    balanced, _ = training_examples(data, recipe, processor, 1, len(NAMES))
    plain, order = training_examples(data, Recipe(augmentation="strong", batch_size=2), processor, 1, len(NAMES))
    assert type(order) is WindowOrder
    first, second = balanced[0][0], balanced[6][0]
    assert first.tobytes() == plain[0][0].tobytes() and first.tobytes() != second.tobytes()


def test_balanced_weights_are_bounded_and_have_mean_1():
    weights = np.array(class_weights("balanced", ["car", "bus", "tram"], IMBALANCED))
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights / weights[0] == pytest.approx([1, (150 / 30) ** 0.5, (150 / 4) ** 0.5], rel=1e-4)
    weights = np.array(class_weights("balanced", ["a", "b", "c"], a_set([0] * 500, [1], names=["a", "b", "c"])))
    assert weights.max() / weights.min() == pytest.approx(MOST, rel=1e-4) and weights[2] == weights[0]
    assert class_weights("balanced", ["a", "b"], a_set([], names=["a", "b"])) == [1, 1]


def test_weights_as_given():
    names = ["car", "bus", "a=b"]
    assert class_weights("1, 2.5,0", names, IMBALANCED) == [1, 2.5, 0]
    assert class_weights("bus=3, a=b=2", names, IMBALANCED) == [1, 3, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1,2", "there are 2 weights for 3 classes"),
        ("1,x,2", "numbers from 0 on"),
        ("1,-1,2", "numbers from 0 on"),
        ("1,inf,2", "numbers from 0 on"),
        ("0,0,0", "not all 0"),
        ("bsu=2", "no class is called 'bsu', but 'bus'"),
        ("bus=2,3", "no class is called ''"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=f"^class_weights={given!r} is not possible: ") as error:
        class_weights(given, ["car", "bus", "tram"], IMBALANCED)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stream_cannot_be_balanced(tmp_path):
    stream = pictures(4, 0).to_iterable_dataset()
    for field in ("class_weights", "sampling"):
        with pytest.raises(ValueError, match=f"{field}='balanced' is not possible: .* a stream cannot"):
            train_on(stream, tmp_path, **{field: "balanced"})
    with pytest.raises(ValueError, match=r"class_weights=\[1, 2\] is not possible: it is a text"):
        Recipe(class_weights=[1, 2])
    with pytest.raises(ValueError, match="sampling='often' is not possible: choose one of 'uniform', 'balanced'"):
        Recipe(sampling="often")


def train_on(train, folder, **recipe) -> Trainer:
    recipe = Recipe(epochs=1, batch_size=2, trackers="none", **{"augmentation": "none", **recipe})
    model = tiny_model(backbone_config=SMALL_BACKBONE)
    model.config.id2label = dict(enumerate(NAMES))
    return Trainer(
        model, SamDetrImageProcessor(size={"height": 64, "width": 64}), train, pictures(2, 1), recipe, folder
    )


def test_the_start_states_both_and_the_weights_are_saved(tmp_path, capsys):
    data = pictures(9, 0)
    trainer = train_on(data, tmp_path, class_weights="a=2,c=0.5", sampling="balanced")
    text = trainer.describe()
    assert "Class weights: a 2, e 1, d 1, b 1, c 0.5" in text
    assert f"Balanced sampling: {trainer.order.num_images} pictures an epoch, of 9" in text
    assert f"1 epochs of {trainer.order.steps_per_epoch} steps" in text
    trainer.save()
    assert SamDetrForObjectDetection.from_pretrained(tmp_path).config.class_weights == [2, 1, 0.5, 1, 1]
    assert "weights" not in train_on(data, tmp_path).describe()


def test_a_resume_in_the_middle_of_an_epoch_is_bit_equal(tmp_path, capsys):
    options = {"sampling": "balanced", "class_weights": "balanced", "augmentation": "strong", "epochs": 2, "number": 12}

    run_training(tmp_path / "whole", **options)
    with pytest.raises(SystemExit):
        run_training(tmp_path / "parts", stop_after=4, **options)
    capsys.readouterr()
    assert run_training(tmp_path / "parts", **options)
    assert f"\nResumes from {tmp_path}/parts/checkpoints/step-000000005\n" in capsys.readouterr().out
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    whole, parts = ([{**json.loads(line), "seconds": 0} for line in log] for log in logs)
    assert whole == parts
    weights = [SamDetrForObjectDetection.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="recipe.sampling: 'balanced' in the checkpoint, 'uniform' now"):
        run_training(tmp_path / "parts", **options | {"sampling": "uniform"})
