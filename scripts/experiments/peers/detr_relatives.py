"""Transformers' relatives of DETR with our backbone, and with the loss and the start that their authors gave them."""

from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DabDetrConfig,
    DabDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
)
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from transformers_samdetr.attention import PackedLinear
from transformers_samdetr.geometry import inverse_sigmoid
from transformers_samdetr.loss import prepare_targets, sam_detr_loss
from transformers_samdetr.modeling_sam_detr import SamDetrClassHead

from .shared import PeerConfig, SharedExtractor

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


CLASSES: dict[str, tuple[type, type]] = {
    "detr": (DetrConfig, DetrForObjectDetection),
    "conditional-detr": (ConditionalDetrConfig, ConditionalDetrForObjectDetection),
    "dab-detr": (DabDetrConfig, DabDetrForObjectDetection),
    "deformable-detr": (DeformableDetrConfig, DeformableDetrForObjectDetection),
}


class DetrRelative(nn.Module):
    """One of `CLASSES` in the form of our models' forward."""

    def __init__(self, config: PeerConfig):
        super().__init__()
        config_class, model_class = CLASSES[config.peer]
        self.config = config
        self.detector = model_class(config_class(**_fields(config)))
        backbone = self.detector.model.backbone
        getattr(backbone, "conv_encoder", backbone).model = SharedExtractor(config)
        self.is_softmax = config.peer == "detr"
        start_as_published(self.detector, is_focal=not self.is_softmax)
        self.detector.loss_function = self._softmax_loss if self.is_softmax else self._focal_loss

    @property
    def extractor(self) -> SharedExtractor:
        backbone = self.detector.model.backbone
        return getattr(backbone, "conv_encoder", backbone).model

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor | None = None, labels: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        """`loss`, `loss_dict`, `logits` whose sigmoid is the score of each class, and `pred_boxes`."""
        if labels is not None:
            kept = ("class_labels", "boxes")
            labels = [{name: target[name].to(pixel_values.device) for name in kept} for target in labels]
        outputs = self.detector(pixel_values=pixel_values, pixel_mask=pixel_mask, labels=labels)
        return {
            "loss": outputs.loss,
            "loss_dict": outputs.loss_dict,
            "logits": softmax_as_log_odds(outputs.logits) if self.is_softmax else outputs.logits,
            "pred_boxes": outputs.pred_boxes,
        }

    def _focal_loss(self, logits, labels, device, pred_boxes, config, outputs_class, outputs_coord, **_):
        """Our loss, whose terms are the same, with the peer's weights: Transformers' own has them otherwise."""
        targets = prepare_targets(labels, len(logits), logits.shape[-1], device)
        loss, terms = sam_detr_loss(outputs_class.transpose(0, 1), outputs_coord.transpose(0, 1), targets, self.config)
        return loss, terms, None

    def _softmax_loss(self, logits, labels, device, pred_boxes, config, outputs_class, outputs_coord, **_):
        """Transformers', whose box terms are too large by the number of processes, which divides them twice."""
        _, terms, _ = ForObjectDetectionLoss(logits, labels, device, pred_boxes, config, outputs_class, outputs_coord)
        processes = PartialState().num_processes
        terms = {
            name: value if "_ce" in name else value / processes for name, value in terms.items() if "loss_" in name
        }
        weights = {
            "ce": self.config.class_loss_coefficient,
            "bbox": self.config.bbox_loss_coefficient,
            "giou": self.config.giou_loss_coefficient,
        }
        loss = sum(weights[name.split("_")[1]] * value for name, value in terms.items())
        return loss, {name: value.detach() for name, value in terms.items()}, None


def softmax_as_log_odds(logits: Tensor) -> Tensor:
    """`(B, Q, K + 1)` of a softmax whose last class is "no object" to `(B, Q, K)` of a sigmoid with the same scores.

    As in DETR's own post-processing each query gives its best class alone; the others get the score 0.
    """
    scores = logits.float().softmax(-1)[..., :-1]
    best = scores == scores.amax(-1, keepdim=True)
    return torch.where(best, torch.logit(scores, eps=1e-6), float("-inf"))


def _fields(config: PeerConfig) -> dict[str, Any]:
    """Of Transformers' configuration: the shared sizes under its names, all else at its defaults."""
    names = ("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "num_queries", "dropout")
    names += ("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "class_cost", "bbox_cost", "giou_cost")
    fields = {name: getattr(config, name) for name in names}
    fields |= {"id2label": config.id2label, "label2id": config.label2id, "auxiliary_loss": True}
    fields["hidden_size" if config.peer == "dab-detr" else "d_model"] = config.d_model
    # replaced right after: it tells the number of channels alone
    fields["backbone_config"] = dict(config.backbone_config)
    if config.peer == "deformable-detr":
        # several levels get one more, of half the coarsest size, as its authors have
        levels = config.num_feature_levels
        fields |= {"num_feature_levels": levels + 1 if levels > 1 else 1, "disable_custom_kernels": True}
    return fields
