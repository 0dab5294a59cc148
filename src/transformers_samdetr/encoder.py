"""The transformer encoder: dense attention over one feature level, deformable over several (docs/model.md)."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.integrations import use_kernel_forward_from_hub
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import SamDetrAttention, SamDetrFeedForward, ZeroLinear, additive_mask
from .backbone import FeatureLevel
from .configuration_sam_detr import SamDetrConfig
from .operations import LevelGeometry, level_geometry, pixel_centers, sample_levels
from .pretrained_model import SamDetrPreTrainedModel


@use_kernel_forward_from_hub("MultiScaleDeformableAttention")
class MultiScaleDeformableAttention(nn.Module):
    """`operations.sample_levels` under the name and with the arguments of Transformers' deformable detectors.

    So `from_pretrained(..., use_kernels=True)` replaces it by their CUDA kernel where `kernels` is installed.
    """

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """As `sample_levels`; for the kernel also `(L, 2)` shapes, `(L,)` starts, and images to take together."""
        return sample_levels(value, value_spatial_shapes_list, sampling_locations, attention_weights)


class SamplingOffsets(nn.Linear):
    """Offsets, (x, y) in pixels of the level; at first head m looks along the m-th of M rays, point p at p + 1."""

    def __init__(self, config: SamDetrConfig):
        self.shape = (config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points, 2)
        super().__init__(config.d_model, math.prod(self.shape))

    def initialize(self):
        num_heads, _, num_points, _ = self.shape
        angles = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        offsets = rays[:, None, None] * torch.arange(1.0, num_points + 1)[:, None]  # (M, 1, P, 2)
        init.zeros_(self.weight)
        init.copy_(self.bias, offsets.expand(self.shape).flatten())


class SamDetrDeformableAttention(nn.Module):
    """Each position attends a few sampled points of every level, around its own place."""

    def __init__(self, config: SamDetrConfig):
        super().__init__()
        self.num_heads = config.encoder_attention_heads
        self.num_levels = config.num_feature_levels
        self.num_points = config.encoder_n_points
        num_samples = self.num_heads * self.num_levels * self.num_points
        self.sampling_offsets = SamplingOffsets(config)
        self.attention_weights = ZeroLinear(config.d_model, num_samples)
        self.value_proj = nn.Linear(config.d_model, config.d_model)
        self.output_proj = nn.Linear(config.d_model, config.d_model)
        self.sampling = MultiScaleDeformableAttention()

    def forward(
        self, hidden_states: Tensor, positions: Tensor, reference_points: Tensor, padding: Tensor, levels: LevelGeometry
    ) -> tuple[Tensor, Tensor]:
        """`(B, S, C)` of all levels one after another, and the attention weights `(B, S, M, L, P)`.

        Args:
            hidden_states, positions: `(B, S, C)`; positions are added to the queries alone.
            reference_points: `(B, S, L, 2)`, (x, y) of each position on every level, 0 and 1 at the outer pixel edges.
            padding: `(B, S, 1)`, True where the value is to be 0.
        """
        places, heads = hidden_states.shape[:2], (self.num_heads, self.num_levels, self.num_points)
        value = self.value_proj(hidden_states.flatten(0, 1)).unflatten(0, places).masked_fill(padding, 0)
        value = value.unflatten(-1, (self.num_heads, -1))
        queries = (hidden_states + positions).flatten(0, 1)
        offsets = self.sampling_offsets(queries).view(*places, *heads, 2)
        weights = self.attention_weights(queries).unflatten(1, (self.num_heads, -1)).softmax(-1).view(*places, *heads)
        locations = reference_points[:, :, None, :, None] + offsets / levels.widths_and_heights[:, None]
        output = self.sampling(
            value.to(locations.dtype),  # locations are float32, and a kernel takes one dtype
            levels.shapes,
            levels.sizes,
            levels.starts,
            locations,
            weights.to(locations.dtype),
            im2col_step=value.shape[0],  # in a program, len() would fix it
        )
        return self.output_proj(output.to(value.dtype).flatten(0, 1)).unflatten(0, places), weights


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
            geometry = level_geometry(tuple(level.size for level in levels), mask)
            attention_inputs = (_reference_points(levels), ~mask[..., None], geometry)
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
        x = pixel_centers(width, level.valid_size) / level.valid_size[:, :1]  # (B, W)
        y = pixel_centers(height, level.valid_size) / level.valid_size[:, 1:]  # (B, H)
        grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=-1)
        centers.append(grid.flatten(1, 2))  # (B, H·W, 2)
    ratios = torch.stack([level.valid_ratio for level in levels], dim=1)  # (B, L, 2)
    return torch.cat(centers, dim=1)[:, :, None] * ratios[:, None]


def split_levels(encoded: Tensor, levels: list[FeatureLevel]) -> list[FeatureLevel]:
    """The same levels with `(B, S, C)` encoded features in place of the projected ones."""
    parts = encoded.split([height * width for height, width in (level.size for level in levels)], dim=1)
    return [replace(level, features=features) for level, features in zip(levels, parts, strict=True)]
