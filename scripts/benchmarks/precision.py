"""Whether bf16 autocast costs a trained model anything: its AP in both precisions, on the same pictures."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForObjectDetection

from transformers_samdetr.evaluation.evaluate import compare_average_precision

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
    detector = AutoModelForObjectDetection.from_pretrained(model)
    runners = {"float32": detector, "bfloat16": InAutocast(detector)}
    found = compare_average_precision(runners, model, data)
    return {**found, "passed": abs(found["float32"] - found["bfloat16"]) <= ALLOWED_LOSS}
