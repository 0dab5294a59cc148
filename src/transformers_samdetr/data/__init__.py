"""Detection data: sources of many layouts in one schema, checks, augmentation and batches."""

from .augment import make_augmentation
from .dataset import DetectionCollator, DetectionDataset
from .dataset_check import full_check, quick_check
from .load import DetectionData, load_detection_data
from .stream import DetectionStream

__all__ = ["DetectionCollator", "DetectionData", "DetectionDataset", "DetectionStream", "full_check"]
__all__ += ["load_detection_data", "make_augmentation", "quick_check"]
