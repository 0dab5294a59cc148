"""Predictions to average precision, errors and pictures of both."""

from pathlib import Path

from .coco_evaluator import CocoEvaluator
from .detector import evaluate_detector
from .result import EvaluationResult
from .set_loss import SetLoss

COCO_AP_METRIC = str(Path(__file__).with_name("coco_ap"))
"""Folder of the metric for `evaluate.load`."""

__all__ = ["COCO_AP_METRIC", "CocoEvaluator", "EvaluationResult", "SetLoss", "evaluate_detector"]
