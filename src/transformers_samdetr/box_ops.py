"""Moved to `geometry`; this name goes when nothing imports it."""

from .geometry import (
    BOX_EPSILON,
    box_to_pixel_corners,
    center_to_corners,
    generalized_iou,
    inverse_sigmoid,
)

__all__ = ["BOX_EPSILON", "box_to_pixel_corners", "center_to_corners", "generalized_iou", "inverse_sigmoid"]
