"""Detections for files, folders and videos, and for other libraries."""

from .converters import ObjectTracker, to_fiftyone, to_supervision
from .detector import NMS_THRESHOLD, Detector, Threshold, about_duplicates, choose_threshold
from .predict import EXPLAINED, KINDS, Prediction, predict_files
from .prediction_page import plural
from .writers import FORMATS

__all__ = ["EXPLAINED", "FORMATS", "KINDS", "NMS_THRESHOLD", "Detector", "ObjectTracker", "Prediction", "Threshold"]
__all__ += ["about_duplicates", "choose_threshold", "plural", "predict_files", "to_fiftyone", "to_supervision"]
