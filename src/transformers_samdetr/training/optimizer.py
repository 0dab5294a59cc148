"""AdamW with the paper's parameter groups, the learning rate over time, and a moving average of the weights."""

import math

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .recipes import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Two groups: the feature extractor with its own learning rate, and the rest. Frozen parameters are left out."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["feature_extractor" in name].append(parameter)
    rates = {False: recipe.learning_rate, True: recipe.backbone_learning_rate}
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rates[in_backbone]} for in_backbone, parameters in groups.items() if parameters],
        weight_decay=recipe.weight_decay,
        # takes 3 % off a small model's step on a CPU; a scaler leaves it to such an optimizer to pass over a step whose
        # gradient is not finite, and then Accelerate cannot tell that it was
        fused=recipe.mixed_precision != "fp16",
    )


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int) -> LambdaLR:
    """The recipe's schedule over `total_steps` optimizer steps."""

    def factor(step: int) -> float:
        progress = step / max(total_steps, 1)
        if progress < recipe.warmup:
            return (step + 1) / (recipe.warmup * total_steps + 1)
        if recipe.schedule == "step":
            return 1.0 if progress < recipe.drop_at else 0.1
        after = (progress - recipe.warmup) / (1 - recipe.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(after, 1.0)))

    return LambdaLR(optimizer, factor)


def set_learning_rates(schedule: LambdaLR) -> None:
    """Gives the optimizer the schedule's learning rates at its step, which a resumed run with more epochs changes."""
    factor = schedule.lr_lambdas[0](schedule.last_epoch)
    schedule._last_lr = [base * factor for base in schedule.base_lrs]
    for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def make_average(model: nn.Module, recipe: Recipe, accelerator: Accelerator) -> ModelEmaV3 | None:
    """The moving average of the weights, made before the model is wrapped; None where the recipe has none."""
    if not recipe.ema_decay:
        return None
    average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
    average.module.to(accelerator.device).requires_grad_(False)
    accelerator.register_for_checkpointing(average)
    return average
