"""The decoder: (self-attention → aligner → cross-attention → feed-forward) × layers, boxes refined layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import (
    SamDetrAttention,
    SamDetrFeedForward,
    SamDetrMLP,
    SamDetrQuerySelfAttention,
    SamDetrSharedKeyAttention,
    ZeroLinear,
    additive_mask,
)
from .backbone import FeatureLevel
from .configuration_sam_detr import SamDetrConfig
from .geometry import embed_points, inverse_sigmoid
from .operations import at_least_float32
from .pretrained_model import SamDetrPreTrainedModel
from .semantics_aligner import make_aligner


@dataclass
class SamDetrDecoderOutput(BaseModelOutputWithCrossAttentions):
    """All layers' results, batch first; shapes and meaning as in [`SamDetrModelOutput`]."""

    intermediate_hidden_states: Tensor | None = None
    intermediate_boxes: Tensor | None = None
    reference_boxes: Tensor | None = None
    salient_points: Tensor | None = None


class SamDetrBoxHead(SamDetrMLP):
    """Predicts the change of a box in logit space; it starts at no change."""

    def __init__(self, config: SamDetrConfig):
        super().__init__([config.d_model, config.d_model, config.d_model, 4])
        self.layers[-1] = ZeroLinear(config.d_model, 4)


class SamDetrDecoderLayer(GradientCheckpointingLayer):
    """One decoder layer; without the aligner (`query_resampling="none"`) it is DETR's."""

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.d_model = config.d_model
        self.has_aligner = config.query_resampling != "none"
        if self.has_aligner:
            self.self_attn = SamDetrQuerySelfAttention(config)
            self.aligner = make_aligner(config)
            self.cross_attn = SamDetrSharedKeyAttention(config)
        else:
            self.self_attn = SamDetrAttention(config, config.decoder_attention_heads)
            self.cross_attn = SamDetrAttention(config, config.decoder_attention_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.cross_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.mlp = SamDetrFeedForward(config, config.decoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        queries: Tensor,
        anchors: Tensor,
        features: Tensor,
        feature_positions: Tensor,
        level: FeatureLevel,
        attention_mask: Tensor,
        self_attention_mask: Tensor | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """The new queries `(B, Q, C)` and the salient points `(B, Q, P, 2)`, None without keypoints.

        Args:
            queries: `(B, Q, C)`.
            anchors: `(B, Q, 4)` reference boxes, or without the aligner `(B, Q, C)` query positions.
            features, feature_positions: `(B, H·W, C)`, of the encoded feature level to read, beside `level` because
                reentrant gradient checkpointing gives gradients only to tensors that are arguments.
            level: that level, for its geometry.
            attention_mask, self_attention_mask: additive, `(B, 1, 1, H·W)` and `(B, 1, Q, Q)`.
        """
        if self.has_aligner:
            positions = embed_points(anchors[..., :2], self.d_model).to(queries.dtype)
            attended, _ = self.self_attn(queries, positions, self_attention_mask, **kwargs)
        else:
            placed = queries + anchors
            attended, _ = self.self_attn(placed, placed, queries, self_attention_mask, **kwargs)
        queries = self.self_attn_layer_norm(queries + self.dropout(attended))

        salient_points = None
        if self.has_aligner:
            feature_map = features.unflatten(1, level.size)
            content, positions, salient_points, bias = self.aligner(queries, anchors, feature_map, level.valid_size)
            attended, _ = self.cross_attn(  # equation 1
                content, positions, features, feature_positions, attention_mask, bias, **kwargs
            )
        else:
            keys = features + feature_positions
            attended, _ = self.cross_attn(queries + anchors, keys, features, attention_mask, **kwargs)
        queries = self.cross_attn_layer_norm(queries + self.dropout(attended))
        return self.final_layer_norm(queries + self.mlp(queries)), salient_points


class SamDetrDecoder(SamDetrPreTrainedModel):
    _can_record_outputs = {
        "hidden_states": OutputRecorder(SamDetrDecoderLayer, index=0),
        "attentions": [
            OutputRecorder(SamDetrQuerySelfAttention, index=1, layer_name="self_attn"),
            OutputRecorder(SamDetrAttention, index=1, layer_name="self_attn"),
        ],
        "cross_attentions": [
            OutputRecorder(SamDetrSharedKeyAttention, index=1, layer_name="cross_attn"),
            OutputRecorder(SamDetrAttention, index=1, layer_name="cross_attn"),
        ],
    }

    def __init__(self, config: SamDetrConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(SamDetrDecoderLayer(config) for _ in range(config.decoder_layers))
        self.box_heads = nn.ModuleList(SamDetrBoxHead(config) for _ in range(config.decoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        queries: Tensor,
        anchors: Tensor,
        levels: list[FeatureLevel],
        self_attention_mask: Tensor | None = None,
        **kwargs,
    ) -> SamDetrDecoderOutput:
        """
        Args:
            queries: `(B, Q, C)`, initial content.
            anchors: `(B, Q, 4)`, the logits of the initial reference boxes, float32; without the aligner the
                positions `(B, Q, C)` of the queries, which stay as they are.
            levels: the encoded feature levels, finest first.
            self_attention_mask: `(B, 1, Q, Q)`, additive, or None.
        """
        refines = self.config.query_resampling != "none"
        masks = [additive_mask(level.mask.flatten(1)[:, None, None], queries.dtype) for level in levels]
        states, boxes, references, points = [], [], [], []
        for layer, head, index in zip(self.layers, self.box_heads, self.config.decoder_feature_levels, strict=True):
            reference, level = anchors.sigmoid() if refines else anchors, levels[index]
            queries, salient_points = layer(
                queries, reference, level.features, level.positions, level, masks[index], self_attention_mask, **kwargs
            )
            change = at_least_float32(head(queries))  # half precision stops here
            if refines:
                # predictions use the clamped logit of the authors' inverse_sigmoid
                boxes.append((inverse_sigmoid(reference) + change).sigmoid())
                references.append(reference)
                # initial boxes get a gradient from the first layer; boxes handed on are detached and not clamped
                anchors = (anchors + change).detach()
            else:
                boxes.append(change.sigmoid())
            states.append(queries)
            points.append(salient_points)
        return SamDetrDecoderOutput(
            last_hidden_state=queries,
            intermediate_hidden_states=torch.stack(states, dim=1),
            intermediate_boxes=torch.stack(boxes, dim=1),
            reference_boxes=torch.stack(references, dim=1) if refines else None,
            salient_points=torch.stack(points, dim=1) if points[0] is not None else None,
        )
