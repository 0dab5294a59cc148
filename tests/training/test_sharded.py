"""FSDP2 and DeepSpeed on two processes of a CPU, over gloo, with the shipped configurations."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.training import Recipe, find_model, processes
from transformers_samdetr.training.checkpoint import list_checkpoints

from ..processes import run
from ..training_runs import run_training

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "examples" / "accelerate_configs"
PLAIN = {"ema_decay": 0.0, "epochs": 1, "number": 8, "model": {"num_denoising_groups": 0, "dropout": 0.0}}
"""Two steps of four pictures."""


def shard_on_cpu():
    """Accelerate offers FSDP on accelerators only: here it takes the CPU for one. The settings are the file's."""
    settings = load_config_from_file(str(CONFIGS / "fsdp2.yaml")).fsdp_config
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_USE_CPU": "false"}
    os.environ |= {name.upper().replace("LAYER_CLS", "CLS"): str(value) for name, value in settings.items()}
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    processes.torch = SimpleNamespace(accelerator=SimpleNamespace(is_available=lambda: True))


def train_sharded(folder, options):
    shard_on_cpu()
    resumed = run_training(folder, **{**PLAIN, **options})
    return PartialState().num_processes, resumed


def largest_difference(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def train_alone(folder, options):
    return run_training(folder, **{**PLAIN, **options})


def as_if_killed(folder, copy):
    """A copy of a run's folder without its newest checkpoint."""
    shutil.copytree(folder, copy)
    shutil.rmtree(list_checkpoints(copy / "checkpoints")[0])
    return copy


def test_fsdp2_trains_evaluates_and_saves(tmp_path):
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    run(train_alone, alone, {})
    assert run(train_sharded, sharded, {}, count=2) == [(2, False)] * 2
    # float32, and AdamW moves a weight whose gradient is rounding by the learning rate, 0.001 a step
    assert largest_difference(alone, sharded) < 5e-3
    SamDetrForObjectDetection.from_pretrained(list_checkpoints(sharded / "checkpoints")[0])
    assert find_model(sharded) == sharded


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"keep": "best"}, {"accumulation_steps": 2}, {"mixed_precision": "bf16"}], ids=str
)
def test_fsdp2_resumes_bit_equal(tmp_path, options):
    options = {"epochs": 2, **options}
    run(train_sharded, tmp_path / "whole", options, count=2)
    again = as_if_killed(tmp_path / "whole", tmp_path / "again")
    assert run(train_sharded, again, options, count=2) == [(2, True)] * 2
    assert largest_difference(tmp_path / "whole", again) == 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="pip install --no-build-isolation deepspeed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_trains_saves_and_resumes_bit_equal(tmp_path, stage):
    def launch(folder):
        config = CONFIGS / f"deepspeed_zero{stage}.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
        command += ["-m", "tests.training_runs", folder, json.dumps({**PLAIN, "epochs": 2})]
        paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "src")))
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        subprocess.run(list(map(str, command)), check=True, cwd=REPOSITORY, env=environment, timeout=900)

    launch(tmp_path / "whole")
    SamDetrForObjectDetection.from_pretrained(list_checkpoints(tmp_path / "whole" / "checkpoints")[0])
    again = as_if_killed(tmp_path / "whole", tmp_path / "again")
    launch(again)
    assert largest_difference(tmp_path / "whole", again) == 0


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
    with pytest.raises(ValueError, match="gradient_clipping is 1.0 in the DeepSpeed file, 0.1 by the recipe"):
        processes.unite_with_recipe({"gradient_clipping": 1.0}, recipe, num_processes=4)
