"""Average precision, errors and calibration of a detector, as numbers, figures and a page."""

from .coco_evaluator import CocoEvaluator, EvaluationResult
from .evaluate import evaluate_detector
from .set_loss import SetLoss

__all__ = ["CocoEvaluator", "EvaluationResult", "SetLoss", "evaluate_detector"]
