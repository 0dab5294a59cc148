"""`pipeline("object-detection")` for SAM-DETR: pictures of any sizes in one batch, and the threshold of the model."""

from typing import Any

import torch
from transformers.modeling_outputs import ModelOutput
from transformers.pipelines.object_detection import ObjectDetectionPipeline


class SamDetrObjectDetectionPipeline(ObjectDetectionPipeline):
    """Transformers' own pipeline, which stacks the pictures of a batch and so needs them of one size.

    Here each batch is split by size, so that every picture gets the scores that it gets alone. With models of other
    types this class does nothing but call the class it inherits from.
    """

    @property
    def _is_sam_detr(self) -> bool:
        return self.model.config.model_type == "sam_detr"

    def preprocess(self, image, timeout=None) -> dict[str, Any]:
        inputs = super().preprocess(image, timeout)
        return {"pictures": [inputs]} if self._is_sam_detr else inputs  # the pipeline collates lists as they are

    def _forward(self, model_inputs: dict[str, Any]) -> ModelOutput:
        if not self._is_sam_detr:
            return super()._forward(model_inputs)
        pictures = model_inputs["pictures"]
        if isinstance(pictures[0], list):  # a batch of lists with one picture each
            pictures = [picture for [picture] in pictures]
        by_shape: dict[torch.Size, list[int]] = {}
        for index, picture in enumerate(pictures):
            by_shape.setdefault(picture["pixel_values"].shape, []).append(index)
        logits, boxes = [None] * len(pictures), [None] * len(pictures)
        for indices in by_shape.values():
            names = [name for name in pictures[indices[0]] if name != "target_size"]
            batch = {name: torch.cat([pictures[index][name] for index in indices]) for name in names}
            outputs = self.model(**batch)
            for row, index in enumerate(indices):
                logits[index], boxes[index] = outputs.logits[row], outputs.pred_boxes[row]
        target_size = torch.cat([picture["target_size"] for picture in pictures])
        return ModelOutput(logits=torch.stack(logits), pred_boxes=torch.stack(boxes), target_size=target_size)

    def postprocess(self, model_outputs: ModelOutput, threshold: float | None = None) -> list[dict[str, Any]]:
        """Detections with a score above `threshold`: by default the one saved with the model, else 0.5."""
        if threshold is None:
            threshold = getattr(self.model.config, "detection_threshold", None) if self._is_sam_detr else None
        return super().postprocess(model_outputs, 0.5 if threshold is None else threshold)
