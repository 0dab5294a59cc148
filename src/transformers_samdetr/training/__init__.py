"""Training on Accelerate, with recipes for the paper's models and for small sets."""

from importlib import import_module
from typing import TYPE_CHECKING

from .paper_recipes import PAPER_RECIPES
from .recipes import SMALL_RECIPES, Recipe

if TYPE_CHECKING:
    from .checkpointing import Checkpointing
    from .hooks import TrainingHook
    from .start import load_model_and_processor
    from .trainer import Trainer

RECIPES: dict[str, Recipe] = SMALL_RECIPES | PAPER_RECIPES
"""All recipes by name."""

_FILES = {
    "Checkpointing": "checkpointing",
    "TrainingHook": "hooks",
    "Trainer": "trainer",
    "load_model_and_processor": "start",
}
"""Imported when first used: commands read recipes before they import PyTorch."""

__all__ = ["RECIPES", "Checkpointing", "Recipe", "Trainer", "TrainingHook", "load_model_and_processor"]


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
