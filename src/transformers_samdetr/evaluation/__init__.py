"""Predictions to average precision, errors and pictures of both."""

from .coco_evaluator import CocoEvaluator
from .detector import evaluate_detector
from .result import EvaluationResult

__all__ = ["CocoEvaluator", "EvaluationResult", "evaluate_detector"]
