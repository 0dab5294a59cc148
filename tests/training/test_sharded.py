"""FSDP2 and DeepSpeed on two processes of a CPU, over gloo, with the shipped configurations."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.training import Recipe, find_model, processes
from transformers_samdetr.training.checkpoint import list_checkpoints, step_of
from transformers_samdetr.training.interruption import EXIT_REQUEUE
from transformers_samdetr.training.trainer import make_optimizer

from ..models import SMALL_BACKBONE, targets, tiny_model
from ..processes import Processes, run
from ..training_runs import run_script, run_training

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "examples" / "accelerate_configs"
PLAIN = {"ema_decay": 0.0, "epochs": 1, "number": 8, "model": {"num_denoising_groups": 0, "dropout": 0.0}}
"""Two steps of four pictures."""


def shard(engine):
    """What `accelerate launch` sets for a shipped file, on a CPU."""
    config = load_config_from_file(str(CONFIGS / f"{engine}.yaml"))
    os.environ.pop("ACCELERATE_USE_CPU", None)
    if config.distributed_type == DistributedType.DEEPSPEED:
        file = REPOSITORY / config.deepspeed_config["deepspeed_config_file"]
        os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
        os.environ |= {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "false", "DS_ACCELERATOR": "cpu"}
        return
    # Accelerate offers FSDP on accelerators only: here it takes the CPU for one
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"}
    settings = config.fsdp_config | config.parallelism_config
    os.environ |= {name.upper().replace("LAYER_CLS", "CLS"): str(value) for name, value in settings.items()}
    if config.parallelism_config:
        os.environ |= {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2"}
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    processes.torch = SimpleNamespace(accelerator=SimpleNamespace(is_available=lambda: True))


def train_sharded(folder, options, engine="fsdp2"):
    shard(engine)
    resumed = run_training(folder, **{**PLAIN, **options})
    mesh = AcceleratorState().device_mesh
    return PartialState().num_processes, resumed, mesh and (mesh.mesh_dim_names, tuple(mesh.shape))


def largest_difference(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def train_alone(folder, options):
    return run_training(folder, **{**PLAIN, **options})


def test_fsdp2_trains_evaluates_and_saves(tmp_path):
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    run(train_alone, alone, {})
    assert run(train_sharded, sharded, {}, count=2) == [(2, False, None)] * 2
    # float32, and AdamW moves a weight whose gradient is rounding by the learning rate, 0.001 a step
    assert largest_difference(alone, sharded) < 5e-3
    SamDetrForObjectDetection.from_pretrained(list_checkpoints(sharded / "checkpoints")[0])
    assert find_model(sharded) == sharded


@pytest.mark.slow
def test_fsdp2_within_copies_is_fsdp2_on_as_many_processes(tmp_path):
    """Two copies of two processes each, and four processes of one copy: the same but for the order of sums."""
    one, copies = tmp_path / "one", tmp_path / "copies"
    run(train_sharded, one, {}, count=4, seconds=600)
    mesh = (("dp_replicate", "dp_shard"), (2, 2))
    assert run(train_sharded, copies, {}, "fsdp2_ddp", count=4, seconds=600) == [(4, False, mesh)] * 4
    assert largest_difference(one, copies) < 5e-3
    again = as_if_killed(copies, tmp_path / "again", step=1)
    assert run(train_sharded, again, {}, "fsdp2_ddp", count=4, seconds=600) == [(4, True, mesh)] * 4
    assert largest_difference(copies, again) == 0


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="pip install --no-build-isolation deepspeed"
)
ENGINES = ["fsdp2", *(pytest.param(f"deepspeed_zero{stage}", marks=needs_deepspeed) for stage in (2, 3))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "data"
    build_digit_scenes(40, 9).save_to_disk(folder)
    return folder


def train_script(engine, data, folder, *options):
    """`scripts/train.py` for 20 steps, with checkpoints after each third and at the end of the 2 epochs."""
    shard(engine)
    arguments = ["--data", data, "--output_dir", folder, "--image_size", 128, "--backbone_weights", "none"]
    arguments += ["--model_overrides", '{"num_queries": 20, "encoder_layers": 1}', "--trackers", "none"]
    run_script(*arguments, "--epochs", 2, "--save_every", 3, "--keep_checkpoints", 9, *options)


@pytest.fixture(scope="module")
def whole(data):
    """The folder of a run with these options, made once."""

    def folder(engine, *options):
        found = data.parent / " ".join((engine, *map(str, options)))
        if not found.exists():
            run(train_script, engine, data, found, *options, count=2, seconds=600)
        return found

    return folder


def as_if_killed(folder, copy, step=13):
    """A copy of a run's folder with the checkpoints up to a step in the middle of the second epoch."""
    shutil.copytree(folder, copy)
    for checkpoint in list_checkpoints(copy / "checkpoints"):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)
    return copy


def last_weights(folder):
    return list_checkpoints(folder / "checkpoints")[0]


KEEP_BEST = ("--keep", "best")
ACCUMULATE = ("--keep", "last", "--accumulation_steps", "2")


@pytest.mark.slow
@pytest.mark.parametrize("options", [KEEP_BEST, ACCUMULATE, ("--mixed_precision", "bf16")], ids=" ".join)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sharded_run_trains_evaluates_loads_and_resumes_bit_equal(data, whole, tmp_path, engine, options):
    folder = whole(engine, *options)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and all(0 <= line["AP"] <= 100 for line in lines)
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    kept = 2 if options == ACCUMULATE else max(lines, key=lambda line: line["AP"])["epoch"]
    assert largest_difference(folder, folder / "checkpoints" / f"step-{10 * kept:09d}") == 0
    for weights in (folder, last_weights(folder)):
        _, report = SamDetrForObjectDetection.from_pretrained(weights, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
    again = as_if_killed(folder, tmp_path / "again")
    run(train_script, engine, data, again, *options, "--resume", count=2, seconds=600)
    assert largest_difference(last_weights(folder), last_weights(again)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_sharded_run_that_is_told_to_stop_saves_and_goes_on(data, whole, tmp_path, engine):
    stopped = tmp_path / "stopped"
    with Processes(train_script, engine, data, stopped, *KEEP_BEST, count=2) as running:
        deadline = time.monotonic() + 300
        while not list_checkpoints(stopped / "checkpoints"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(running.processes[1].pid, signal.SIGTERM)
        for rank in (0, 1):
            good, error = running.outcome(rank, 120)
            assert not good and error.startswith(f"SystemExit: {EXIT_REQUEUE}\n"), error
    assert 3 <= step_of(last_weights(stopped)) < 20
    run(train_script, engine, data, stopped, *KEEP_BEST, "--resume", count=2, seconds=600)
    assert largest_difference(last_weights(whole(engine, *KEEP_BEST)), last_weights(stopped)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_another_number_of_processes(data, whole, tmp_path, engine):
    """Four processes draw the noise of two with two micro-batches each."""
    folder = whole(engine, *ACCUMULATE)
    again = as_if_killed(folder, tmp_path / "again", step=16)
    with Processes(train_script, engine, data, again, "--keep", "last", "--resume", count=4) as resumed:
        if engine == "fsdp2":
            resumed.results(600)
            assert largest_difference(last_weights(folder), last_weights(again)) < 1e-3
        else:
            good, error = resumed.outcome(0, 300)
            assert not good and error.startswith("SystemExit: 2\n"), error


def compute_in_double():
    """DeepSpeed holds weights, gradients and what it sends in float32 or less: here in float64."""
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.engine import DeepSpeedEngine

    DeepSpeedEngine.get_data_types = lambda self: (torch.float64, torch.float64)
    DeepSpeedEngine.communication_data_type = torch.float64
    ZeROOptimizer._configure_master_weights = lambda *_, **__: torch.float64


def train_in_double(engine, folder):
    """The weights before and after 20 steps of a model in float64, as the trainer prepares it."""
    recipe = Recipe(name="test", batch_size=6, learning_rate=1e-4, clip_norm=0.0, trackers="none")
    if engine != "multi_cpu":
        shard(engine)
    if engine == "deepspeed_zero2":
        compute_in_double()
    accelerator = processes.make_accelerator(recipe, folder)
    if engine == "deepspeed_zero2":
        accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]["reduce_scatter"] = False
    model = tiny_model(backbone_config=SMALL_BACKBONE).double().train()
    start = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    processes.name_sharded_layers(accelerator, model)
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    pixels = torch.randn(6, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    labels = targets(4, 1, 2, 0, 3, 1)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    for _ in range(20):
        accelerator.backward(wrapped(pixel_values=pixels[mine], labels=labels[mine]).loss)
        optimizer.step()
        optimizer.zero_grad()
    end = accelerator.get_state_dict(wrapped)  # of FSDP2 on the first process alone
    return start, {name.removeprefix("module."): value.numpy() for name, value in end.items()}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES[:2])
def test_in_double_precision_a_sharded_run_is_one_that_is_not(tmp_path, engine):
    (start, theirs), (_, ours) = (run(train_in_double, name, tmp_path, count=2)[0] for name in ("multi_cpu", engine))
    assert ours.keys() == theirs.keys() == start.keys() and all(v.dtype in (float, int) for v in ours.values())
    moved, difference = (max(np.abs(ours[name] - other[name]).max() for name in ours) for other in (start, theirs))
    print(f"{engine}: weights {difference:.1e} after 20 steps in float64")
    assert difference <= 1e-9 and moved > 1e-3


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_accelerate_launches_the_deepspeed_files(tmp_path, stage):
    config = CONFIGS / f"deepspeed_zero{stage}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    command += ["-m", "tests.training_runs", tmp_path / "run", json.dumps(PLAIN)]
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "src")))
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run(list(map(str, command)), check=True, cwd=REPOSITORY, env=environment, timeout=900)
    SamDetrForObjectDetection.from_pretrained(tmp_path / "run")


def test_fsdp_without_accelerators_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for, but Accelerate offers it to several processes"):
        processes.make_accelerator(Recipe(trackers="none"), tmp_path)


def test_the_recipe_decides_what_a_deepspeed_file_leaves_open():
    settings = {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": "auto"}
    recipe = Recipe(batch_size=16, accumulation_steps=2, clip_norm=0.1)
    processes.unite_with_recipe(settings, recipe, num_processes=4)
    assert settings == {
        "gradient_clipping": 0.1,
        "gradient_accumulation_steps": 2,
        "train_micro_batch_size_per_gpu": 2,
    }
    processes.unite_with_recipe(settings, replace(recipe, mixed_precision="bf16"), num_processes=4)
    assert settings["torch_autocast"]["enabled"] and not settings["bf16"]["enabled"]
    with pytest.raises(ValueError, match="mixed_precision='fp16' is not possible with DeepSpeed"):
        processes.unite_with_recipe(settings, replace(recipe, mixed_precision="fp16"), num_processes=4)
    with pytest.raises(ValueError, match="gradient_clipping is 1.0 in the DeepSpeed file, 0.1 by the recipe"):
        processes.unite_with_recipe({"gradient_clipping": 1.0}, recipe, num_processes=4)
