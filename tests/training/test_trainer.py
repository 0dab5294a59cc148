"""The training loop on one process. What needs several is in the tests of distributed training."""

import json

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoConfig

from transformers_samdetr import SamDetrImageProcessor
from transformers_samdetr.data.dataset import DetectionCollator, DetectionDataset
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.training import Recipe, Trainer
from transformers_samdetr.training.loss_sums import weighted_terms, without_objects

from ..models import tiny_model


@pytest.fixture(scope="module")
def scenes():
    return build_digit_scenes(num_train=7, num_eval=2, size=96, seed=3)


def make_trainer(scenes, folder, hooks=(), fields=None, **recipe):
    recipe = {"epochs": 1, "batch_size": 4, "augmentation": "none", "learning_rate": 1e-3, "trackers": "none", **recipe}
    model = tiny_model(num_labels=10, **(fields or {}))
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    return Trainer(model, processor, scenes["train"], scenes["validation"], Recipe(**recipe), folder, hooks)


class Record:
    """Weights after each step, and the names of the calls."""

    def __init__(self, stop_at=None):
        self.calls, self.weights, self.stop_at = [], [], stop_at

    def after_step(self, trainer):
        self.calls.append("step")
        self.weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
        if len(self.weights) == self.stop_at:
            trainer.stop_requested = True

    def after_epoch(self, trainer):
        self.calls.append("epoch")

    def when_stopped(self, trainer):
        self.calls.append("stopped")


STILL = {"learning_rate": 1e-12, "backbone_learning_rate": 0.0, "weight_decay": 0.0}
"""Weights stay where they are, so that rounding in one step cannot grow in the next."""


def gradients_of(trainer, monkeypatch):
    """The gradients of each window, before the optimizer uses them.

    In double precision: in single, a batch of another size rounds otherwise, and where that moves a ReLU across 0 one
    gradient differs by 1e-3.
    """
    found = []
    trainer.model.double()
    trainer.model.register_forward_pre_hook(
        lambda module, args, batch: (args, batch | {"pixel_values": batch["pixel_values"].double()}), with_kwargs=True
    )

    def keep(parameters, limit):
        found.append({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
        return torch.tensor(1.0)

    monkeypatch.setattr(trainer.accelerator, "clip_grad_norm_", keep)
    trainer.train_epoch()
    return found


def assert_same_gradients(expected, found):
    """Each tensor that is not next to nothing within 1e-6, relative."""
    assert expected.keys() == found.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-6 * max(gradient.norm(), 1e-3 * largest), name


@pytest.mark.parametrize("fields", [{}, {"num_denoising_groups": 2, "denoising_label_noise": 0.0}])
def test_accumulated_gradients_are_those_of_one_large_batch(scenes, tmp_path, monkeypatch, fields):
    if fields:  # noise differs by micro-batch: without any, the denoising terms have to agree as well
        fields["denoising_box_noise"] = 0.0
    counts = [len(example["objects"]["id"]) for example in scenes["train"]]
    assert len(set(counts)) > 2, "equal numbers of boxes would not tell a right from a wrong normalisation"
    whole = gradients_of(make_trainer(scenes, tmp_path, fields=fields, **STILL), monkeypatch)
    for steps in (4,) if fields else (2, 4):
        trainer = make_trainer(scenes, tmp_path, fields=fields, accumulation_steps=steps, **STILL)
        parts = gradients_of(trainer, monkeypatch)
        assert len(parts) == len(whole) == 2  # the second window has 3 images
        for window in range(2):
            assert_same_gradients(whole[window], parts[window])


def test_a_micro_batch_without_images_counts_as_nothing(scenes, tmp_path, monkeypatch):
    """Five images in windows of 4: the last window has one image, and three of its four slots have none."""
    few = {"train": scenes["train"].select(range(5)), "validation": scenes["validation"]}
    whole = gradients_of(make_trainer(few, tmp_path, **STILL), monkeypatch)
    trainer = make_trainer(few, tmp_path, accumulation_steps=4, **STILL)
    parts = gradients_of(trainer, monkeypatch)
    assert_same_gradients(whole[1], parts[1])
    assert trainer.progress.images == 5 and trainer.progress.global_step == 2


def test_the_mean_loss_is_that_of_one_large_batch(scenes, tmp_path):
    trainers = [make_trainer(scenes, tmp_path, accumulation_steps=steps, **STILL) for steps in (1, 2)]
    for trainer in trainers:
        trainer.train_epoch()
    first, second = (trainer.state_dict()["loss_sums"] for trainer in trainers)
    assert first == pytest.approx(second, rel=1e-5)
    assert first["loss"] == pytest.approx(sum(value for name, value in first.items() if name != "loss"), rel=1e-5)


def test_the_threshold_of_the_best_f1_is_saved_with_the_model(scenes, tmp_path, monkeypatch):
    trainer = make_trainer(scenes, tmp_path)
    trainer.evaluate()
    assert trainer.detection_threshold is None or 0 <= trainer.detection_threshold < 1
    for threshold in (0.36, None):  # None, too: a model that was fine-tuned has one of other data
        trainer.detection_threshold = threshold
        trainer.save()
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["detection_threshold"] == threshold and saved["architectures"] == ["SamDetrForObjectDetection"]
        assert AutoConfig.from_pretrained(tmp_path).detection_threshold == threshold
    assert not hasattr(trainer.config, "detection_threshold"), "later checkpoints would depend on earlier evaluations"


def test_logged_terms_add_up_to_the_loss(scenes):
    model = tiny_model(num_labels=10, num_denoising_groups=2).train()
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    batch = DetectionCollator(processor)([DetectionDataset(scenes["train"])[index] for index in range(2)])
    outputs = model(**batch)
    terms = weighted_terms(outputs.loss_dict, model.config)
    assert terms.keys() == outputs.loss_dict.keys() and any(name.startswith("dn_") for name in terms)
    torch.testing.assert_close(sum(terms.values()), outputs.loss.detach())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_the_ids_and_saves_nothing(scenes, tmp_path, kind):
    trainer = make_trainer(scenes, tmp_path, accumulation_steps=2)
    trainer.save()
    good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    expected = [scenes["train"][index]["image_id"] for index in trainer.order.share(trainer.order.window(0, 1), 0)]
    head = trainer.model.class_heads[0]
    if kind == "loss":
        calls = []

        def spoil(module, inputs, output):
            calls.append(1)
            return output * float("nan") if len(calls) == 3 else output  # the first micro-batch of the second step

        head.register_forward_hook(spoil)
    else:
        expected = [scenes["train"][index]["image_id"] for index in trainer.order.window(0, 1)]
        head.weight.register_hook(lambda gradient: gradient * (float("inf") if trainer.progress.step else 1))
    with pytest.raises(FloatingPointError, match="The " + kind) as raised:
        trainer.train()
    assert str(sorted(expected)) in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == good


def test_a_run_stops_after_the_step_in_which_it_is_asked_to(scenes, tmp_path):
    record = Record(stop_at=1)
    trainer = make_trainer(scenes, tmp_path, (record,), epochs=3, batch_size=2)
    assert trainer.train() == {} and trainer.stopped
    assert record.calls == ["step", "stopped"]  # the flag is read in the step after it was set
    assert trainer.progress.step == 2 and trainer.progress.global_step == 2


@pytest.mark.parametrize(("fields", "workers"), [({}, 1), ({"num_denoising_groups": 2, "dropout": 0.1}, 0)])
def test_a_run_in_two_parts_is_the_run_in_one(scenes, tmp_path, fields, workers):
    """From any step, with everything random in the model, and with other random numbers drawn in between."""
    options = {"epochs": 2, "batch_size": 2, "fields": fields, "augmentation": "strong", "workers": workers}
    whole = Record()
    trainer = make_trainer(scenes, tmp_path / "whole", (whole,), **options)
    metrics = trainer.train()
    log = (tmp_path / "whole" / "log.jsonl").read_text()

    first = make_trainer(scenes, tmp_path / "parts", (Record(stop_at=5),), **options)
    first.train()
    first.accelerator.save_state(tmp_path / "state")
    state = json.loads(json.dumps(first.state_dict()))
    done = first.progress.global_step
    assert 0 < first.progress.step < first.order.steps_per_epoch, "the cut is not in the middle of an epoch"
    torch.manual_seed(99)
    rest = Record()
    second = make_trainer(scenes, tmp_path / "parts", (rest,), **options)
    second.accelerator.load_state(tmp_path / "state")
    second.load_state_dict(state)
    torch.rand(7)
    assert second.train() == metrics
    for expected, found in zip(whole.weights[done:], rest.weights, strict=True):
        assert all(map(torch.equal, expected, found))

    def lines(text):
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]

    assert lines((tmp_path / "parts" / "log.jsonl").read_text()) == lines(log)


def test_a_batch_without_its_objects_keeps_its_images(scenes):
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    batch = DetectionCollator(processor)([DetectionDataset(scenes["train"])[0]])
    empty = without_objects(batch)
    assert len(empty["labels"][0]["boxes"]) == 0 and len(batch["labels"][0]["boxes"]) > 0
    assert empty["pixel_values"] is batch["pixel_values"]


def test_batches_that_do_not_divide_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="batch_size=4 .* 3 here"):
        make_trainer(scenes, tmp_path, accumulation_steps=3)
    assert Accelerator().num_processes == 1
