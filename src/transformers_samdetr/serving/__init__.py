"""Detections for many clients at once: pictures that wait together go through the model together, within limits."""

from .batcher import Batcher, BusyError

__all__ = ["Batcher", "BusyError"]
