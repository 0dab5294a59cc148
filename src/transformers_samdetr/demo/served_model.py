"""A model that several visitors share: one picture goes through it at a time."""

import os
import threading

import torch
from PIL import Image

from ..modeling_sam_detr import SamDetrForObjectDetection
from ..prediction import Detector, choose_threshold
from ..visualization.explain import Observation, observe
from .candidates import MOST, Candidates


class ServedModel:
    """A detector for the page.

    Args:
        model: folder or Hub repository of a SAM-DETR.
        device: as in `Detector`.

    Raises:
        ValueError: it is another kind of model, which the page could not explain.
    """

    def __init__(self, model: str | os.PathLike, device: str | torch.device | None = None):
        self.detector = Detector(model, device)
        if not isinstance(self.detector.model, SamDetrForObjectDetection):
            raise ValueError(f"{model} is a {type(self.detector.model).__name__}: the demo shows SAM-DETRs.")
        self.name = self.detector.short_name
        self.threshold = choose_threshold(self.detector.model.config)
        self._lock = threading.Lock()
        self._last: tuple[int, Observation] | None = None  # clicks often follow each other on one picture

    def candidates(self, image: Image.Image) -> Candidates:
        """All detections of a picture, whatever their score."""
        with self._lock:
            (found,) = self.detector.detect([image], threshold=-1.0, top_k=MOST, nms_threshold=None)
        return Candidates(found["scores"], found["labels"], found["boxes"])

    def observation(self, key: int, image: Image.Image) -> Observation:
        """What the model looks at on a picture.

        Args:
            key: the same for the same picture alone.
            image: the picture.
        """
        with self._lock:
            if self._last is None or self._last[0] != key:
                self._last = None  # before the next is made, for both may be large
                self._last = key, observe(self.detector.model, self.detector.processor, image)
            return self._last[1]
