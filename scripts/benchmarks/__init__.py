"""Time and memory of our models beside those that a user would pick instead, on the same work in one run."""

from .bars import BARS, measure_bars
from .measure import Measurement, interleave
from .work import PEERS, TASKS, Work

__all__ = ["BARS", "PEERS", "TASKS", "Measurement", "Work", "interleave", "measure_bars"]
