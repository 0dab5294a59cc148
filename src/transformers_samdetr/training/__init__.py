"""Training on Accelerate, with recipes for the paper's models and for small sets."""

from .checkpointing import Checkpointing
from .hooks import TrainingHook
from .recipes import RECIPES, Recipe
from .start import load_model_and_processor
from .trainer import Trainer

__all__ = ["RECIPES", "Checkpointing", "Recipe", "Trainer", "TrainingHook", "load_model_and_processor"]
