"""Detections for files, folders and videos, on large pictures, and for other libraries."""

from .converters import to_fiftyone, to_supervision
from .detector import NMS_THRESHOLD, Detector, Threshold, about_duplicates, choose_threshold
from .predict import EXPLAINED, KINDS, Prediction, predict_files
from .tiles import SlicedDetector

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
    "to_fiftyone",
    "to_supervision",
]
