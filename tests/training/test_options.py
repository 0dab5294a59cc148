"""Each option of a recipe changes what it says, and nothing else."""

import csv
import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin
from timm.utils import ModelEmaV3
from transformers.utils import is_torch_bf16_available_on_device

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.training import Recipe, Trainer, load_model_and_processor, processes
from transformers_samdetr.training.log import COLUMNS
from transformers_samdetr.training.start import find_backbone_weights

from ..models import targets, tiny_model

PUBLISHED = Path(__file__).parents[3] / "shared" / "published_curves.csv"


@pytest.fixture(scope="module")
def scenes():
    return build_digit_scenes(num_train=4, num_eval=2, size=96, seed=5)


def make_trainer(scenes, folder, hooks=(), fields=None, **recipe):
    recipe = {"epochs": 1, "batch_size": 2, "augmentation": "none", "learning_rate": 1e-3, "trackers": "none", **recipe}
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    model = tiny_model(num_labels=10, **(fields or {}))
    return Trainer(model, processor, scenes["train"], scenes["validation"], Recipe(**recipe), folder, hooks)


@pytest.fixture
def new_accelerate():
    """Accelerate fixes precision and compilation at the first call in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_average_follows_the_weights_and_is_what_is_saved(scenes, tmp_path):
    history = []

    class Follow:
        def after_step(self, trainer):
            history.append(weights(trainer.model))

        def after_epoch(self, trainer):
            """Nothing."""

    trainer = make_trainer(scenes, tmp_path, (Follow(),), ema_decay=0.3, epochs=2)
    expected = ModelEmaV3(tiny_model(num_labels=10), decay=0.3, use_warmup=True)
    trainer.train()
    plain = tiny_model(num_labels=10)
    for step, state in enumerate(history, 1):
        plain.load_state_dict(state)
        expected.update(plain, step)
    saved = SamDetrForObjectDetection.from_pretrained(tmp_path).state_dict()
    name = "class_heads.2.weight"
    assert torch.equal(saved[name], expected.module.state_dict()[name])
    assert not torch.allclose(saved[name], history[-1][name], atol=1e-7)


def test_gradient_checkpointing_changes_no_weight(scenes, tmp_path):
    found = []
    for on in (False, True):
        trainer = make_trainer(scenes, tmp_path, gradient_checkpointing=on, fields={"dropout": 0.1})
        assert trainer.model.is_activation_checkpointing is on
        trainer.train_epoch()
        found.append(weights(trainer.model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.skipif(not is_torch_bf16_available_on_device("cpu"), reason="this processor has no bf16")
def test_bf16_trains_and_evaluates(new_accelerate, scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, mixed_precision="bf16", ema_decay=0.5)
    seen = set()
    trainer.model.model.encoder.register_forward_hook(
        lambda module, inputs, output: seen.add(output.last_hidden_state.dtype)
    )
    metrics = trainer.train()
    assert metrics["test_loss"] > 0 and all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert seen == {torch.bfloat16}
    AcceleratorState._reset_state(reset_partial_state=True)
    exact = make_trainer(scenes, tmp_path / "exact")
    exact.train_epoch()
    approximate = (tmp_path / "log.jsonl").read_text()
    loss = exact.state_dict()["loss_sums"]["loss"] / 2
    assert json.loads(approximate)["train_loss"] == pytest.approx(loss, rel=0.05)


def test_a_run_ends_when_the_metric_stands_still(scenes, tmp_path, monkeypatch, capsys):
    values = iter([10.0, 30.0, 20.0, 30.0, 40.0])
    trainer = make_trainer(scenes, tmp_path, epochs=9, batch_size=4, patience=2, keep="best")
    numbers = {"AP": 0.0, "AP50": 0.0, "AP75": 0.0, "test_loss": 1.0}
    saved = []
    monkeypatch.setattr(trainer, "evaluate", lambda: {**numbers, "AP": next(values)})
    monkeypatch.setattr(trainer, "save", lambda: saved.append(trainer.progress.epoch + 1))
    trainer.train()
    assert trainer.progress.epoch == 4 and trainer.progress.best_value == 30.0 and trainer.progress.best_epoch == 2
    assert saved == [1, 2]
    assert "Ends after epoch 4 of 9: AP has not improved since epoch 2\n" in capsys.readouterr().out


def test_the_log_has_the_columns_of_published_curves(scenes, tmp_path):
    if PUBLISHED.is_file():
        with PUBLISHED.open() as file:
            assert tuple(next(csv.reader(file))) == COLUMNS
    trainer = make_trainer(scenes, tmp_path, epochs=2, name="a recipe", schedule="step", drop_at=0.5)
    metrics = trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [tuple(line)[: len(COLUMNS)] for line in lines] == [COLUMNS] * 2
    last = lines[-1]
    assert last["variant"] == "a recipe" and last["epoch"] == 2 and last["AP"] == pytest.approx(metrics["AP"], abs=1e-6)
    assert last["parameters"] == sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert [line["lr"] for line in lines] == [pytest.approx(1e-3), pytest.approx(1e-4)]
    assert last["train_loss"] == pytest.approx(
        sum(value for name, value in last.items() if name.startswith("train_loss_")), rel=1e-4
    )
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_a_checkpoint_with_other_classes_keeps_all_but_the_class_heads(tmp_path):
    model = tiny_model(num_labels=5)
    model.save_pretrained(tmp_path)
    SamDetrImageProcessor().save_pretrained(tmp_path)
    tuned, _ = load_model_and_processor(
        Recipe(model=str(tmp_path), backbone_weights="efficientnet-lite0", freeze_backbone=True), ["a", "b"]
    )
    old, new = model.state_dict(), tuned.state_dict()
    assert {name for name in old if old[name].shape != new[name].shape or not torch.equal(old[name], new[name])} == {
        f"class_heads.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")
    }
    assert torch.allclose(new["class_heads.0.bias"], torch.tensor(-4.59512))
    extractor = tuned.model.backbone.feature_extractor
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert tuned.config.id2label == {0: "a", 1: "b"}


def test_trackers_get_every_epoch(scenes, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(scenes, tmp_path, trackers="auto", log_steps=1)
    trainer.train()
    events = EventAccumulator(str(tmp_path / "transformers_samdetr")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert events.Scalars("epoch/AP")[0].value == pytest.approx(line["AP"])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_gives_the_same_losses(new_accelerate, scenes, tmp_path, monkeypatch, backend):
    own = {"backend": backend} | ({} if backend == "inductor" else {"options": None})
    monkeypatch.setattr(processes, "TorchDynamoPlugin", lambda **options: TorchDynamoPlugin(**options | own))
    sums = []
    for compiled in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = make_trainer(scenes, tmp_path, compile=compiled)
        layers = [type(layer).__name__ for layer in trainer.accelerator.unwrap_model(trainer.model).modules()]
        assert ("OptimizedModule" in layers) is compiled
        trainer.train()
        sums.append(json.loads((tmp_path / "log.jsonl").read_text())["train_loss"])
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)
    assert_saved(trainer, tmp_path)


def assert_saved(trainer, folder):
    """What was saved loads to the weights of the trainer, under the names of a model that is not compiled."""
    loaded, loading = SamDetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).state_dict()
    assert loaded.state_dict().keys() == trained.keys()
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in trained.items())


def test_compiled_training_saves_what_loads(new_accelerate, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        processes,
        "TorchDynamoPlugin",
        lambda **options: TorchDynamoPlugin(**options | {"backend": "eager", "options": None}),
    )
    trainer = make_trainer(scenes, tmp_path, compile=True)
    trainer.train()
    assert_saved(trainer, tmp_path)


@pytest.mark.slow
def test_the_number_of_denoising_queries_may_change_in_compiled_layers(new_accelerate, scenes, tmp_path):
    options = make_trainer(scenes, tmp_path, compile=True).accelerator.state.dynamo_plugin.to_kwargs()
    torch._dynamo.reset()
    config = SamDetrConfig.from_preset("sam-detr-tiny", num_labels=5, decoder_layers=1, num_denoising_groups=5)
    model = SamDetrForObjectDetection(config).train()
    model.model.decoder.layers[0].compile(**options)
    for counts in ((2, 2), (3, 1), (1, 1), (3, 3), (4, 1)):
        model(torch.randn(2, 3, 64, 64), labels=targets(*counts)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.model.decoder.parameters())


def test_fp16_without_a_gpu_is_refused_with_what_is_possible(new_accelerate, scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ValueError, match="mixed_precision='fp16' is not possible on a CPU: .* 'no' .* or 'bf16' here"):
        make_trainer(scenes, tmp_path / "out", mixed_precision="fp16")
    assert not (tmp_path / "out").exists()


def test_backbone_weights_that_timm_does_not_have():
    with pytest.raises(ValueError, match="backbone_weights='timm:resnt50' cannot be loaded: .*timm.list_pretrained"):
        find_backbone_weights("timm:resnt50")
