"""One pass of a model, forward and backward, held against stored numbers at the bars that parity has to meet."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from transformers_samdetr import SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.conversion import convert_state_dict
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput

PARITY = Path(__file__).parents[2] / "shared" / "parity"
"""The numbers of the authors' code, where they are at hand."""
SMALL_GRADIENT = 1e-4
"""Gradients below this share of the largest are rounding, such as those of biases in front of a softmax."""


@dataclass
class Deviation:
    """How far a model is off, at its worst: absolutely in boxes and logits, relatively in what comes from the loss.

    Attributes:
        boxes, logits: of all decoder layers; boxes normalised by the valid image.
        loss, terms: the weighted sum, and the worst of its unweighted terms.
        gradients: the worst norm of those above `SMALL_GRADIENT`.
        worst_term, worst_gradient: their names.
    """

    boxes: float
    logits: float
    loss: float
    terms: float
    gradients: float
    worst_term: str
    worst_gradient: str

    def check(self):
        assert self.boxes <= 1e-4, self
        assert self.logits <= 1e-4, self
        assert self.loss <= 1e-4, self
        assert self.terms <= 1e-4, self
        assert self.gradients <= 1e-3, self

    def __str__(self) -> str:
        return (
            f"boxes {self.boxes:.1e}, logits {self.logits:.1e}, loss {self.loss:.1e}, "
            f"terms {self.terms:.1e} ({self.worst_term}), gradient norms {self.gradients:.1e} ({self.worst_gradient})"
        )


def layers_of(outputs: SamDetrObjectDetectionOutput) -> tuple[np.ndarray, np.ndarray]:
    """Boxes `(layers, B, Q, 4)` and logits `(layers, B, Q, K)` of all decoder layers that the outputs have."""
    layers = [*(outputs.auxiliary_outputs or []), {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    boxes, logits = (torch.stack([layer[name] for layer in layers]).detach() for name in ("pred_boxes", "logits"))
    return boxes.cpu().numpy(), logits.cpu().numpy()


def deviation(
    outputs: SamDetrObjectDetectionOutput,
    gradient_norms: dict[str, float],
    expected: dict,
    every_query: int = 1,
) -> Deviation:
    """Compares everything, and that there are the same terms and gradients.

    Args:
        outputs: of `SamDetrForObjectDetection`, with labels.
        gradient_norms: of each trainable tensor, by any names.
        expected: `boxes`, `logits`, `loss`, `terms` and `gradient_norms`; of the logits every `every_query`-th query.
    """
    boxes, logits = layers_of(outputs)
    assert boxes.shape == expected["boxes"].shape and logits[:, :, ::every_query].shape == expected["logits"].shape
    terms = {name: value.item() for name, value in outputs.loss_dict.items()}
    assert terms.keys() == expected["terms"].keys()
    assert gradient_norms.keys() == expected["gradient_norms"].keys()
    largest = max(expected["gradient_norms"].values())
    off_terms = {name: _relative(value, expected["terms"][name]) for name, value in terms.items()}
    off_gradients = {
        name: _relative(gradient_norms[name], norm)
        for name, norm in expected["gradient_norms"].items()
        if norm > SMALL_GRADIENT * largest
    }
    worst_term, worst_gradient = max(off_terms, key=off_terms.get), max(off_gradients, key=off_gradients.get)
    return Deviation(
        boxes=float(np.abs(boxes - expected["boxes"]).max()),
        logits=float(np.abs(logits[:, :, ::every_query] - expected["logits"]).max()),
        loss=_relative(outputs.loss.item(), expected["loss"]),
        terms=off_terms[worst_term],
        gradients=off_gradients[worst_gradient],
        worst_term=worst_term,
        worst_gradient=worst_gradient,
    )


def _relative(value: float, expected: float) -> float:
    if expected == 0:
        return 0.0 if value == 0 else float("inf")
    return abs(value - expected) / abs(expected)


def gradient_norms(model: SamDetrForObjectDetection) -> dict[str, float]:
    """The norm of each trainable parameter's gradient, by its name."""
    return {name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.requires_grad}


def original_gradient_norms(model: SamDetrForObjectDetection, shapes: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """The same by the authors' names: the converter only moves and cuts tensors, so marked ones show where each went.

    Args:
        shapes: of the authors' state dict.
    """
    names = list(shapes)
    marks = {name: torch.full(tuple(shape), float(index)) for index, (name, shape) in enumerate(shapes.items())}
    ours = gradient_norms(model)
    squares: dict[str, float] = {}
    for name, tensor in convert_state_dict(marks, model.config).items():
        if name in ours:
            original = names[int(tensor.flatten()[0])]
            squares[original] = squares.get(original, 0.0) + ours[name] ** 2
    return {name: square**0.5 for name, square in squares.items()}


def check_detections(
    outputs: SamDetrObjectDetectionOutput,
    target_sizes: list[list[int]],
    scores: np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
):
    """Post-processing: labels identical, but where neighbouring scores tie; boxes in pixels of `target_sizes`.

    Args:
        scores, labels, boxes: `(B, D)`, `(B, D)` and `(B, D, 4)`, the D best detections.
    """
    results = SamDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=target_sizes, top_k=scores.shape[1]
    )
    for index, result in enumerate(results):
        result = {name: values.detach().cpu().numpy() for name, values in result.items()}
        np.testing.assert_allclose(result["scores"], scores[index], atol=1e-5, rtol=0)
        gaps = np.abs(np.diff(scores[index]))
        clear = np.concatenate([[True], gaps > 1e-6]) & np.concatenate([gaps > 1e-6, [True]])
        assert (result["labels"] == labels[index])[clear].all()
        np.testing.assert_allclose(result["boxes"][clear], boxes[index][clear], atol=0.05, rtol=0)
