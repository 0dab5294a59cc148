"""A short, correct training loop on Accelerate."""

from .recipes import Recipe
from .trainer import Trainer

__all__ = ["Recipe", "Trainer"]
