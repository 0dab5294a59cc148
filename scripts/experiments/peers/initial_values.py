"""The values that the detectors of DETR's family start from in their authors' code.

Transformers starts nearly all weights from N(0, 0.02), which serves checkpoints that are loaded over them. Trained from
there, queries that are all alike and classes without a prior take a large part of a short schedule.
"""

import torch
from torch import Tensor, nn

from transformers_samdetr.attention import PackedLinear
from transformers_samdetr.box_ops import inverse_sigmoid
from transformers_samdetr.modeling_sam_detr import SamDetrClassHead

PACKED = ("q_proj", "k_proj", "v_proj")
"""One `(3C, C)` matrix in the authors' code, and so smaller by √2; projections by other names stand for themselves."""
DEFORMABLE = ("sampling_offsets", "attention_weights")
"""Transformers starts them as the authors do."""


@torch.no_grad()
def start_as_published(detector: nn.Module, is_focal: bool) -> None:
    """Sets all weights that are not the backbone's, in place.

    Encoder and decoder are Xavier-uniform, queries N(0, 1), classes at a prior probability of 0.01 where the loss is
    focal, and boxes at their reference there: the last layer is 0, in Deformable DETR with a bias for small boxes.
    Input projections and other layers of the heads are PyTorch's, but for Deformable DETR's Xavier-uniform projection.
    Biases are 0 in encoder and decoder.

    Args:
        detector: Transformers' DETR, Conditional DETR, DAB-DETR or Deformable DETR for object detection.
        is_focal: whether classes are told apart by sigmoid.
    """
    model = detector.model
    for part in (model.encoder, model.decoder):
        for module in part.modules():
            is_packed = all(hasattr(module, name) for name in PACKED)
            for name, layer in module.named_children():
                if isinstance(layer, nn.Linear) and name not in DEFORMABLE:
                    nn.init.xavier_uniform_(layer.weight, gain=PackedLinear.GAIN if is_packed and name in PACKED else 1)
                    nn.init.zeros_(layer.bias)
    for name in ("query_position_embeddings", "query_refpoint_embeddings"):
        if hasattr(model, name):
            nn.init.normal_(getattr(model, name).weight)
    is_deformable = hasattr(model, "input_proj")
    if is_deformable:
        for projection in model.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
    else:
        model.input_projection.reset_parameters()
    for head in _heads(detector, "class_labels_classifier", "class_embed"):
        head.reset_parameters()
        if is_focal:
            nn.init.constant_(head.bias, SamDetrClassHead.PRIOR_LOGIT)
    for head in _heads(detector, "bbox_predictor", "bbox_embed"):
        for layer in head.layers:
            layer.reset_parameters()
        if is_focal:
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        if is_deformable:
            nn.init.constant_(head.layers[-1].bias[2:], -2.0)


@torch.no_grad()
def start_at(detector: nn.Module, boxes: Tensor) -> None:
    """Moves the queries of Deformable DETR to the centers of boxes: it has no sizes to set.

    Args:
        detector: a `DeformableDetrForObjectDetection`, with its queries as they start.
        boxes: `(Q, 4)`, center x, center y, width, height, normalised.

    Raises:
        ValueError: it is another detector.
    """
    model = detector.model
    if not hasattr(model, "reference_points"):
        raise ValueError(f"{type(detector).__name__} has no reference boxes to start from that are known here.")
    queries = model.query_position_embeddings.weight[:, : model.reference_points.in_features]
    # places are a linear layer of the queries: the smallest weights that give these
    model.reference_points.weight.copy_(torch.linalg.lstsq(queries, inverse_sigmoid(boxes[:, :2])).solution.T)
    model.reference_points.bias.zero_()


def _heads(detector: nn.Module, *names: str) -> list[nn.Module]:
    """The head of one of these names, or of all layers."""
    found = next(getattr(detector, name) for name in names if hasattr(detector, name))
    return list(found) if isinstance(found, nn.ModuleList) else [found]
