"""What Accelerate is asked for: precision, accumulation, compilation, trackers."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator, DistributedType
from accelerate.utils import TorchDynamoPlugin, is_tensorboard_available
from timm.utils import ModelEmaV3
from torch import nn

from .process_group import start_processes
from .recipes import Recipe

EVERY_PARAMETER_EVERYWHERE = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
}
"""Launches in which each process holds the whole model."""


def make_accelerator(recipe: Recipe, output_dir: Path) -> Accelerator:
    """An Accelerator for a recipe, with trackers that write into `output_dir`.

    Raises:
        ValueError: fp16 without an accelerator, or an average of weights that are sharded.
        RuntimeError: see `start_processes`.
    """
    start_processes()
    # gradients of convolutions are channels last, and the buckets that several processes exchange are not: a cheap copy
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    compiled = None
    if recipe.compile:
        # the layers of encoder, decoder and backbone one by one: the matching between them runs on the host
        compiled = TorchDynamoPlugin(backend="inductor", use_regional_compilation=True)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.accumulation_steps,
        dynamo_plugin=compiled,
        log_with=tracker_names(recipe.trackers) or None,
        project_dir=output_dir,
    )
    if recipe.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # where Accelerate trains in float32
        raise ValueError(
            "mixed_precision='fp16' is not possible on a CPU: half precision and its scaler of gradients need a GPU. "
            "Train with 'no' (float32) or 'bf16' here, or on a machine with a GPU."
        )
    if recipe.ema_decay and accelerator.distributed_type not in EVERY_PARAMETER_EVERYWHERE:
        raise ValueError(
            f"ema_decay={recipe.ema_decay} is not possible with {accelerator.distributed_type.value}, which shards the "
            "weights: set it to 0, or launch with plain data parallelism."
        )
    if accelerator.log_with:
        options = {name: value for name, value in asdict(recipe).items() if value is not None}
        options["model_overrides"] = json.dumps(recipe.model_overrides)
        accelerator.init_trackers("transformers_samdetr", config=options)
    return accelerator


def tracker_names(trackers: str) -> list[str]:
    """Names for Accelerate's `log_with`.

    >>> tracker_names("none"), tracker_names("tensorboard,wandb")
    ([], ['tensorboard', 'wandb'])
    """
    if trackers == "auto":
        return ["tensorboard"] if is_tensorboard_available() else []
    return [] if trackers == "none" else trackers.split(",")


def make_average(model: nn.Module, recipe: Recipe, accelerator: Accelerator) -> ModelEmaV3 | None:
    """The moving average of the weights, made before the model is wrapped; None where the recipe has none."""
    if not recipe.ema_decay:
        return None
    average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
    average.module.to(accelerator.device).requires_grad_(False)
    accelerator.register_for_checkpointing(average)
    return average
