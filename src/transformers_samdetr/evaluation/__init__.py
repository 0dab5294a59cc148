"""Predictions to average precision."""

from .coco_ap import CocoEvaluator

__all__ = ["CocoEvaluator"]
