"""A saved model, ready to detect: with its image processor, its names and a colour for each."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForObjectDetection, PreTrainedConfig

from ..visualization import class_colors, draw_detections

NMS_THRESHOLD = 0.7
"""Overlap above which only the higher of two boxes of a class is shown. The model is trained to find each object once,
but small models, trained for an hour, still put two queries on some; boxes of two objects rarely overlap so much."""


LONGEST_SIDE = 4096
"""Pixels up to which a picture is enlarged to be drawn."""


class Detector:
    """Detects on pictures with a saved model.

    Args:
        model: folder or Hub repository.
        device: by default CUDA, else MPS, else the CPU.
        options: of the model's `from_pretrained`, such as `mask_padding=True`.

    Attributes:
        short_name: a folder's own name; that of a Hub repository stays whole.
        model, processor: as loaded, the model in evaluation mode on its device.
        names: the class name of each label.
        colors: RGB by name, the same in every picture.
        category_ids: see `own_category_ids`.
    """

    def __init__(self, model: str | os.PathLike, device: str | torch.device | None = None, **options: Any):
        self.short_name = Path(model).resolve().name if Path(model).exists() else str(model)
        self.processor = AutoImageProcessor.from_pretrained(model)
        self.model = AutoModelForObjectDetection.from_pretrained(model, **options)
        self.model.to(device or default_device()).eval()
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

        Options as in `post_process_object_detection`, but that duplicates are dropped unless `nms_threshold` is None.
        """
        inputs = self.processor(list(images), return_tensors="pt").to(self.model.device)
        results = self.processor.post_process_object_detection(
            self.model(**inputs),
            threshold=threshold,
            target_sizes=[(image.height, image.width) for image in images],
            top_k=top_k,
            nms_threshold=nms_threshold,
            one_label_per_query=one_label_per_query,
        )
        return [{name: values.cpu() for name, values in result.items()} for result in results]

    def draw(self, image: Image.Image, detections: dict[str, Tensor], shortest_side: int = 1) -> Image.Image:
        """A copy of the picture with its detections, as `detect` returns them.

        Args:
            image: upright RGB.
            detections: of it.
            shortest_side: smaller pictures are enlarged, a whole number of times, so that names can be read.
        """
        times = enlargement(image, shortest_side)
        image = image.resize((times * image.width, times * image.height), Image.Resampling.LANCZOS)
        labels = [self.names[label] for label in detections["labels"].tolist()]
        return draw_detections(image, times * detections["boxes"], labels, detections["scores"], self.colors)


def enlargement(image: Image.Image, shortest_side: int) -> int:
    """How many times a picture is enlarged, for its shorter side to be about `shortest_side` pixels at least.

    Less where its longer side would come to more than `LONGEST_SIDE`.
    """
    return max(1, min(round(shortest_side / min(image.size)), LONGEST_SIDE // max(image.size)))


def about_duplicates(nms_threshold: float | None) -> str:
    """What is done with two boxes on one object, as words for the user."""
    if nms_threshold is None:
        return "Duplicates: all boxes are shown."
    return (
        f"Duplicates: of two boxes of a class that overlap by more than IoU {nms_threshold:g} the higher score is "
        "shown (--nms_threshold none shows both)."
    )


def own_category_ids(config: PreTrainedConfig) -> list[int]:
    """For each label the id of its class in the set that the model was trained on, or the label where none is known."""
    category_ids = getattr(config, "category_ids", None) or []
    return list(category_ids) if len(category_ids) == config.num_labels else list(range(config.num_labels))


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
