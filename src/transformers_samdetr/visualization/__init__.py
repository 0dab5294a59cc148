"""Detections drawn on pictures."""

from .detections import class_colors, draw_detections

__all__ = ["class_colors", "draw_detections"]
