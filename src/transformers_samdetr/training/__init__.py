"""Training on Accelerate, with recipes for the paper's models and for small sets."""

from .checkpointing import Checkpointing
from .hooks import TrainingHook
from .paper_recipes import PAPER_RECIPES
from .recipes import SMALL_RECIPES, Recipe
from .start import load_model_and_processor
from .trainer import Trainer

RECIPES: dict[str, Recipe] = SMALL_RECIPES | PAPER_RECIPES
"""All recipes by name."""

__all__ = ["RECIPES", "Checkpointing", "Recipe", "Trainer", "TrainingHook", "load_model_and_processor"]
