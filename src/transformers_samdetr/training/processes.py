"""The processes of a run: how they find each other, how long they wait, and what Accelerate is asked for."""

import json
import os
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import TorchDynamoPlugin, is_tensorboard_available, parse_flag_from_env
from torch import distributed
from transformers import PreTrainedModel

from ..semantics_aligner import AlignerBase
from .recipes import Recipe

PREPARATION_TIMEOUT = 24 * 60 * 60.0
"""Seconds that it waits before training begins: one process may download or convert the data for all."""


def start_processes() -> PartialState:
    """Joins the processes of the run, if that is not done yet; the first that a script does.

    Who asks Accelerate for them first decides whether `ACCELERATE_USE_CPU` counts; here it does, and where there is no
    accelerator it need not be set.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    has_begun = distributed.is_initialized()
    on_cpus = launched > 1 and not torch.accelerator.is_available()
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        state = PartialState(backend="gloo" if on_cpus else None)  # with cpu=True Accelerate leaves DeepSpeed aside
    else:
        state = PartialState(cpu=on_cpus or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if launched > 1 and state.num_processes == 1:
        remedy = f"none is joined on {state.device.type}: set ACCELERATE_USE_CPU=true, or launch one process"
        raise RuntimeError(f"{launched} processes were launched (WORLD_SIZE), but {remedy}.")
    if distributed.is_initialized() and not has_begun:
        state.wait_for_everyone()  # NCCL connects at the first such call, and then with the time it started with
        distributed.set_timeout(timedelta(seconds=PREPARATION_TIMEOUT))
    return state


def limit_waiting(seconds: float) -> None:
    """From now on the processes wait for each other no longer than this; all call it together.

    For a machine or a network that falls silent; a killed process closes its connections and is missed at once. It must
    be longer than what one process does alone: writing a checkpoint above all.
    """
    if not seconds > 0:
        raise ValueError(f"peer_timeout={seconds} is not possible: it must be above 0 seconds.")
    if distributed.is_initialized():
        PartialState().wait_for_everyone()  # those that still prepare have the longer time
        distributed.set_timeout(timedelta(seconds=seconds))


def make_accelerator(recipe: Recipe, output_dir: Path) -> Accelerator:
    """An Accelerator for a recipe, with trackers that write into `output_dir`; refuses what cannot go together."""
    start_processes()
    # gradients of convolutions are channels last, and the buckets that several processes exchange are not: a cheap copy
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # layers one by one: matching runs on the host. Changed layouts keep strides that denoising queries' number changes
    options = {"use_regional_compilation": True, "options": {"layout_optimization": False}}
    compiled = TorchDynamoPlugin(backend="inductor", **options) if recipe.compile else None
    trackers = [] if recipe.trackers == "none" else recipe.trackers.split(",")
    if recipe.trackers == "auto":
        trackers = ["tensorboard"] if is_tensorboard_available() else []
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
        dynamo_plugin=compiled,
        log_with=trackers or None,
        project_dir=output_dir,
    )
    kind, settings = accelerator.distributed_type, accelerator.state.deepspeed_plugin
    if recipe.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # where Accelerate trains in float32
        raise ValueError("mixed_precision='fp16' is not possible on a CPU: choose 'no' (float32) or 'bf16' here.")
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and kind != DistributedType.FSDP:
        remedy = "launch with examples/accelerate_configs/multi_cpu.yaml or multi_gpu.yaml"
        raise ValueError(f"FSDP was asked for, but Accelerate offers it to several processes on GPUs only: {remedy}.")
    if settings is not None:
        unite_with_recipe(settings.deepspeed_config, recipe, accelerator.num_processes)
    if recipe.ema_decay and not (kind == DistributedType.NO or kind.value.startswith("MULTI_")):
        raise ValueError(f"ema_decay={recipe.ema_decay} must be 0 with {kind.value}, which shards the weights.")
    if accelerator.log_with:
        options = {name: value for name, value in asdict(recipe).items() if value is not None}
        options["model_overrides"] = json.dumps(recipe.model_overrides)
        accelerator.init_trackers("transformers_samdetr", config=options)
    return accelerator


def unite_with_recipe(settings: dict, recipe: Recipe, num_processes: int) -> None:
    """Fills in what the recipe decides in DeepSpeed's settings; refuses a file with another value."""
    decided = {
        "gradient_clipping": recipe.clip_norm,
        "gradient_accumulation_steps": recipe.accumulation_steps,
        "train_micro_batch_size_per_gpu": max(recipe.batch_size // (num_processes * recipe.accumulation_steps), 1),
    }
    for name, value in decided.items():
        if settings.get(name, "auto") not in ("auto", value):
            raise ValueError(f'{name} is {settings[name]} in the DeepSpeed file, {value} by the recipe: write "auto".')
        settings[name] = value
    if recipe.mixed_precision == "fp16":  # DeepSpeed's own, which wants pictures in fp16 too
        raise ValueError("mixed_precision='fp16' is not possible with DeepSpeed: choose 'bf16' or 'no' (float32).")
    if recipe.mixed_precision == "bf16":  # weights stay float32, autocast computes in bf16, as without DeepSpeed
        settings["bf16"] = {"enabled": False}
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


def name_sharded_layers(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Tells FSDP and DeepSpeed which layers are gathered as a whole.

    FSDP: those of its settings that the model has. ZeRO-3: the aligners, which read the weight of a layer inside them
    without calling it, so that the weight would be sharded again before the backward.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        plugin.mixed_precision_policy = None  # weights stay float32, autocast computes in bf16, as without FSDP
        model.get_input_embeddings = lambda: None  # Accelerate asks; Transformers raises for a model of pictures
        present = {type(module).__name__ for module in model.modules()}
        names = plugin.transformer_cls_names_to_wrap or model._no_split_modules
        plugin.transformer_cls_names_to_wrap = [name for name in names if name in present]
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        aligners = {type(module).__name__ for module in model.modules() if isinstance(module, AlignerBase)}
        plugin.transformer_moe_cls_names = ",".join(sorted(aligners)) or None
