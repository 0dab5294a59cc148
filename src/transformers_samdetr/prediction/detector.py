"""A saved model with its image processor, class names and colours, ready to detect on pictures."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert
from transformers import AutoImageProcessor, AutoModelForObjectDetection, PreTrainedConfig

from ..export.exported_detector import ExportedDetector, is_exported
from ..visualization import class_colors, draw_detections

NMS_THRESHOLD = 0.7
"""IoU above which the lower of two boxes of a class is dropped. The model is trained to find each object once, but
small models, trained for an hour, still put two queries on some; boxes of two objects rarely overlap so much."""
DEFAULT_THRESHOLD = 0.3
"""For models that were saved without a threshold of their own. Focal loss keeps scores low: on the sets of
docs/real_photographs.md F1 is highest from 0.25 and 0.36 on, and half of the right boxes stay below 0.5."""
LONGEST_SIDE = 4096
"""Pixels up to which a picture is enlarged to be drawn."""


class Detector:
    """Detects on pictures with a saved model.

    Args:
        model: folder or Hub repository, or a file or folder of `samdetr-export` without `--postprocess`.
        device: by default CUDA, else MPS, else the CPU; exported files run on the CPU.
        options: of the model's `from_pretrained`, such as `mask_padding=True`.

    Attributes:
        short_name: name of the model's folder, or the whole name of a Hub repository.
        model, processor: as loaded, the model in evaluation mode on its device.
        names: class name of each label.
        colors: RGB by class name, the same in every picture.
        category_ids: see `own_category_ids`.
    """

    def __init__(self, model: str | os.PathLike, device: str | torch.device | None = None, **options: Any):
        self.short_name = Path(model).resolve().name if Path(model).exists() else str(model)
        if is_exported(model):
            self.model = ExportedDetector(model)
            self.model.config, self.processor = self.model.description()
        else:
            self.processor = AutoImageProcessor.from_pretrained(model)
            self.model = AutoModelForObjectDetection.from_pretrained(model, **options)
            mps = "mps" if torch.backends.mps.is_available() else "cpu"
            try:
                self.model.to(device or ("cuda" if torch.cuda.is_available() else mps)).eval()
            except RuntimeError as error:
                raise ValueError(f"device={str(device)!r} cannot be used, such as 'cpu' or 'cuda': {error}") from error
        self.names = [self.model.config.id2label[label] for label in range(self.model.config.num_labels)]
        self.colors = class_colors(self.names)
        self.category_ids = own_category_ids(self.model.config)

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[Image.Image],
        threshold: float,
        top_k: int = 100,
        nms_threshold: float | None = NMS_THRESHOLD,
        one_label_per_query: bool = False,
    ) -> list[dict[str, Tensor]]:
        """For each upright RGB picture `scores`, `labels` and `boxes`, x1 y1 x2 y2 in its pixels, on the CPU.

        Options are those of `post_process_object_detection`; duplicates are dropped unless `nms_threshold` is None.
        """
        inputs = self.processor(list(images), return_tensors="pt").to(self.model.device)
        options = {"top_k": top_k, "nms_threshold": nms_threshold, "one_label_per_query": one_label_per_query}
        sizes = [(image.height, image.width) for image in images]
        found = self.processor.post_process_object_detection(self.model(**inputs), threshold, sizes, **options)
        return [{name: values.cpu() for name, values in result.items()} for result in found]

    def draw(self, image: Image.Image, detections: dict[str, Tensor], shortest_side: int = 1) -> Image.Image:
        """A copy of an upright RGB picture with its detections, as `detect` returns them.

        Where it is small, it is enlarged by an integer for its shorter side to have about `shortest_side` pixels, so
        that names can be read; the longer one then has at most `LONGEST_SIDE`.
        """
        times = max(1, min(round(shortest_side / min(image.size)), LONGEST_SIDE // max(image.size)))
        image = image.resize((times * image.width, times * image.height), Image.Resampling.LANCZOS)
        labels = [self.names[label] for label in detections["labels"].tolist()]
        boxes, ids = times * detections["boxes"], detections.get("track_ids")
        return draw_detections(image, boxes, labels, detections["scores"], self.colors, ids)

    def coco_rows(self, image_id: int, file_name: str, detections: dict[str, Tensor]) -> list[dict]:
        """Detections of a picture, as `detect` returns them, as rows of COCO's results, with names beside the ids.

        A row has `image_id`, `file_name`, `category_id`, `category_name`, `bbox` (x, y, width, height in pixels) and
        `score`; after tracking also `track_id`, which may be None.
        """
        boxes = box_convert(detections["boxes"].double(), "xyxy", "xywh").tolist()
        columns = detections["labels"].tolist(), boxes, detections["scores"].tolist()
        names = ("image_id", "file_name", "category_id", "category_name", "bbox", "score")
        rows = [
            dict(zip(names, (image_id, file_name, self.category_ids[label], self.names[label], *rest), strict=True))
            for label, *rest in zip(*columns, strict=True)
        ]
        for row, track_id in zip(rows, detections.get("track_ids", torch.zeros(0)).tolist(), strict=False):
            row["track_id"] = track_id if track_id >= 0 else None
        return rows


@dataclass(frozen=True)
class Threshold:
    """The score above which detections are shown, and why, in words for the user."""

    value: float
    reason: str

    def __str__(self) -> str:
        return f"Scores above {self.value:g}: {self.reason}."


def choose_threshold(config: PreTrainedConfig, given: float | None = None) -> Threshold:
    """The user's threshold, else the one that training saved with the model, else `DEFAULT_THRESHOLD`.

    Args:
        config: of the model; `detection_threshold`, where it is there, is the score with the highest F1 on the
            evaluation set (see `EvaluationResult.best_threshold`).
        given: by the user, or None.

    Raises:
        ValueError: `given` is not between 0 and 1.

    >>> str(choose_threshold(PreTrainedConfig(detection_threshold=0.36)))
    'Scores above 0.36: the best F1 on the set that the model was evaluated on in training.'
    """
    if given is not None:
        if not 0 <= given <= 1:
            raise ValueError(f"threshold={given} must be between 0 and 1.")
        return Threshold(given, "as asked for")
    saved = getattr(config, "detection_threshold", None)
    if isinstance(saved, (int, float)) and math.isfinite(saved) and 0 <= saved < 1:
        return Threshold(float(saved), "the best F1 on the set that the model was evaluated on in training")
    return Threshold(DEFAULT_THRESHOLD, "the default, since the model was saved without a threshold of its own")


def about_duplicates(nms_threshold: float | None) -> str:
    """How two boxes on one object are handled, in words for the user."""
    if nms_threshold is None:
        return "Duplicates: all boxes are shown."
    shown = f"of two boxes of a class with an IoU above {nms_threshold:g} only the higher score is shown"
    return f"Duplicates: {shown} (--nms_threshold none shows both)."


def own_category_ids(config: PreTrainedConfig) -> list[int]:
    """For each label the category id in the set that the model was trained on, or the label where none is known."""
    category_ids = getattr(config, "category_ids", None) or []
    return list(category_ids) if len(category_ids) == config.num_labels else list(range(config.num_labels))
