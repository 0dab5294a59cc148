"""Training on Accelerate, with recipes for the paper's models and for small sets."""

from importlib import import_module
from typing import TYPE_CHECKING

from .checkpoint import find_model
from .recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from .resume import Checkpointing
    from .start import load_model_and_processor
    from .trainer import Trainer, TrainingHook

_FILES = {"Checkpointing": "resume", "Trainer": "trainer", "TrainingHook": "trainer"}
_FILES |= {"load_model_and_processor": "start"}
"""Imported when first used: commands read recipes before they import PyTorch."""

__all__ = ["RECIPES", "Checkpointing", "Recipe", "Trainer", "TrainingHook", "find_model", "load_model_and_processor"]


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
