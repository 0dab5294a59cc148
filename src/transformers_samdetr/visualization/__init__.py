"""Detections drawn on pictures; figures of what a model looked at are in `explain`."""

from .drawing import class_colors, draw_detections, numbered_names

__all__ = ["class_colors", "draw_detections", "numbered_names"]
