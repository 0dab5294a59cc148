"""Average precision, errors and calibration of a detector, as numbers, figures and a page."""

from pathlib import Path

from .coco_evaluator import CocoEvaluator, EvaluationResult
from .evaluate import evaluate_detector
from .set_loss import SetLoss

COCO_AP_METRIC = str(Path(__file__).with_name("coco_ap"))
"""Folder of the metric for `evaluate.load`."""

__all__ = ["COCO_AP_METRIC", "CocoEvaluator", "EvaluationResult", "SetLoss", "evaluate_detector"]
