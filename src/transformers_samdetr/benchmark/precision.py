"""Whether bf16 autocast costs a trained model anything: its AP in both precisions, on the same pictures."""

from typing import Any

import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from ..data.batch import DetectionDataset
from ..data.read import load_detection_data
from ..evaluation.detector import evaluate_detector, set_labels_of

ALLOWED_LOSS = 0.3
"""AP, of 100, by which bf16 may differ from float32."""


class InAutocast(nn.Module):
    """A model whose forward runs in bf16 autocast, on whatever device it is."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return self.model(**inputs)


def compare_precision(model: str, data: str) -> dict[str, Any]:
    """AP of a saved model on a set's evaluation pictures.

    Args:
        model: folder or Hub name.
        data: as in `load_detection_data`.

    Returns:
        `float32` and `bfloat16`, COCO's AP in percent; `images`, how many; `passed`, whether the two differ by no more
        than `ALLOWED_LOSS`.
    """
    source = load_detection_data(data)
    processor, detector = AutoImageProcessor.from_pretrained(model), AutoModelForObjectDetection.from_pretrained(model)
    labels, dataset = set_labels_of(detector.config.id2label, source.names), DetectionDataset(source.evaluation)
    results = {
        name: evaluate_detector(runner, processor, dataset, source.names, set_labels=labels).result()
        for name, runner in (("float32", detector), ("bfloat16", InAutocast(detector)))
    }
    found = {name: result.metrics()["AP"] for name, result in results.items()}
    passed = abs(found["float32"] - found["bfloat16"]) <= ALLOWED_LOSS
    return {**found, "images": results["float32"].num_images, "passed": passed}
