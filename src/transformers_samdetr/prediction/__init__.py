"""Detections for files, folders and videos."""

from .detector import NMS_THRESHOLD, Detector, about_duplicates
from .explain import KINDS
from .predict import EXPLAINED, Prediction, predict_files
from .sliced import SlicedDetector
from .threshold import Threshold, choose_threshold

__all__ = [
    "EXPLAINED",
    "KINDS",
    "NMS_THRESHOLD",
    "Detector",
    "Prediction",
    "SlicedDetector",
    "Threshold",
    "about_duplicates",
    "choose_threshold",
    "predict_files",
]
