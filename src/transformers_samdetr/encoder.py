"""The transformer encoder: dense over one feature level, deformable over several."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import SamDetrAttention, SamDetrFeedForward, additive_mask
from .backbone import FeatureLevel
from .configuration_sam_detr import SamDetrConfig
from .deformable_attention import LevelGeometry, SamDetrDeformableAttention
from .pretrained_model import SamDetrPreTrainedModel


class SamDetrEncoderLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward block, each followed by its residual and norm."""

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.is_deformable = config.num_feature_levels > 1
        if self.is_deformable:
            self.self_attn = SamDetrDeformableAttention(config)
        else:
            self.self_attn = SamDetrAttention(config, config.encoder_attention_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.mlp = SamDetrFeedForward(config, config.encoder_ffn_dim)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden_states: Tensor, positions: Tensor, attention_inputs: tuple, **kwargs) -> Tensor:
        """`(B, S, C)` hidden states and positions; `attention_inputs` as `SamDetrEncoder` prepares them."""
        if self.is_deformable:
            attended, _ = self.self_attn(hidden_states, positions, *attention_inputs)
        else:
            queries = hidden_states + positions
            attended, _ = self.self_attn(queries, queries, hidden_states, *attention_inputs, **kwargs)
        hidden_states = self.self_attn_layer_norm(hidden_states + self.dropout(attended))
        return self.final_layer_norm(hidden_states + self.mlp(hidden_states))


class SamDetrEncoder(SamDetrPreTrainedModel):
    _can_record_outputs = {
        "hidden_states": SamDetrEncoderLayer,
        "attentions": [SamDetrAttention, SamDetrDeformableAttention],
    }

    def __init__(self, config: SamDetrConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(SamDetrEncoderLayer(config) for _ in range(config.encoder_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, hidden_states: Tensor, levels: list[FeatureLevel], **kwargs) -> BaseModelOutput:
        """Encodes `(B, S, C)`, the flattened features of all levels one after another."""
        positions = torch.cat([level.positions for level in levels], dim=1)
        mask = torch.cat([level.mask.flatten(1) for level in levels], dim=1)
        if self.config.num_feature_levels > 1:
            geometry = LevelGeometry.of([level.size for level in levels], mask.device)
            attention_inputs = (_reference_points(levels), mask, geometry)
        else:
            attention_inputs = (additive_mask(mask[:, None, None], hidden_states.dtype),)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, attention_inputs, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


def _reference_points(levels: list[FeatureLevel]) -> Tensor:
    """`(B, S, L, 2)` float32: each position's pixel center, normalised by the valid size, placed on every level."""
    centers = []
    for level in levels:
        height, width = level.size
        rows = torch.arange(height, dtype=torch.float32, device=level.mask.device) + 0.5
        columns = torch.arange(width, dtype=torch.float32, device=level.mask.device) + 0.5
        x = columns / level.valid_size[:, :1]  # (B, W)
        y = rows / level.valid_size[:, 1:]  # (B, H)
        grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
        centers.append(grid.flatten(1, 2))  # (B, H·W, 2)
    ratios = torch.stack([level.valid_ratio for level in levels], dim=1)  # (B, L, 2)
    return torch.cat(centers, dim=1)[:, :, None] * ratios[:, None]


def split_levels(encoded: Tensor, levels: list[FeatureLevel]) -> list[FeatureLevel]:
    """The same levels with `(B, S, C)` encoded features in place of the projected ones."""
    parts = encoded.split([height * width for height, width in (level.size for level in levels)], dim=1)
    return [replace(level, features=features) for level, features in zip(levels, parts, strict=True)]
