"""FSDP2 and DeepSpeed on two processes of a CPU, over gloo, with the shipped configurations."""

import os
from pathlib import Path
from types import SimpleNamespace

from accelerate import PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.training import processes
from transformers_samdetr.training.checkpoint import find_model, list_checkpoints

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


def train_sharded(folder, **options):
    shard_on_cpu()
    resumed = run_training(folder, **{**PLAIN, **options})
    return PartialState().num_processes, resumed


def largest_difference(one, other):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def test_fsdp2_trains_evaluates_saves_and_resumes(tmp_path):
    run(run_training_of, tmp_path / "alone", PLAIN)
    assert run(train_of, tmp_path / "sharded", {"every": 1}, count=2) == [(2, False)] * 2
    # float32, and AdamW moves a weight whose gradient is rounding by the learning rate
    assert largest_difference(*(tmp_path / name / "model.safetensors" for name in ("alone", "sharded"))) < 1e-2
    newest, *_ = list_checkpoints(tmp_path / "sharded" / "checkpoints")
    SamDetrForObjectDetection.from_pretrained(newest)
    assert find_model(tmp_path / "sharded") == tmp_path / "sharded"


def run_training_of(folder, options):
    return run_training(folder, **options)


def train_of(folder, options):
    return train_sharded(folder, **options)
