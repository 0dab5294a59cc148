"""Multi-scale deformable self-attention in plain PyTorch, for any device (Deformable DETR, section 4.1)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.integrations import use_kernel_forward_from_hub

from .bilinear_bags import sample_bags
from .configuration_sam_detr import SamDetrConfig
from .pretrained_model import ZeroLinear


def sample_levels(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples from every level.

    Args:
        value: `(B, S, M, D)`, the levels one after another, S = ΣH·W.
        level_sizes: (height, width) of each of the L levels.
        locations: `(B, S_q, M, L, P, 2)`, (x, y) with 0 and 1 at the outer pixel edges; outside the map a sample is 0.
        attention_weights: `(B, S_q, M, L, P)`, which sum to 1 over L and P.

    Returns:
        `(B, S_q, M·D)`.
    """
    if torch.compiler.is_exporting():
        return sample_patches(value, level_sizes, locations, attention_weights)
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        # places and weights are never rounded to half precision, which cannot tell neighbouring pixels apart
        return sample_bags(value.to(locations.dtype), level_sizes, locations, attention_weights.to(locations.dtype)).to(
            value.dtype
        )
    if torch.are_deterministic_algorithms_enabled():  # the gradient of a grid is added up in any order on a GPU
        return sample_patches(value, level_sizes, locations, attention_weights)
    return sample_grids(value, level_sizes, locations, attention_weights)


def sample_grids(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`sample_levels` on any device and in compiled code, sample by sample."""
    samples = []
    grids = 2 * locations - 1
    for level, (level_value, (height, width)) in enumerate(
        zip(value.split([h * w for h, w in level_sizes], dim=1), level_sizes, strict=True)
    ):
        feature_map = level_value.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (height, width))  # (B·M, D, H, W)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B·M, S_q, P, 2)
        sampled = nn.functional.grid_sample(
            feature_map.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        samples.append(sampled.to(value.dtype))  # (B·M, D, S_q, P)
    batch_size, num_queries, num_heads = attention_weights.shape[:3]
    weights = attention_weights.transpose(1, 2).reshape(batch_size * num_heads, 1, num_queries, -1)
    output = (torch.cat(samples, dim=-1) * weights).sum(-1)  # (B·M, D, S_q)
    return output.view(batch_size, -1, num_queries).transpose(1, 2)


def sample_patches(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`sample_levels` in exported programs, and where determinism is asked for.

    The four pixels around each sample are one row of a table. Other runtimes have no bags, and take many times as long
    for grids, channel by channel.
    """
    batch_size, _, num_heads, channels = value.shape
    block = torch.arange(batch_size * num_heads, device=value.device).view(batch_size, 1, num_heads, 1)
    maps = value.to(locations.dtype).transpose(1, 2).flatten(0, 1)  # (B·M, S, D); as with bags, nothing is rounded
    output = 0.0
    for level, (level_map, (height, width)) in enumerate(
        zip(maps.split([h * w for h, w in level_sizes], dim=1), level_sizes, strict=True)
    ):
        bordered = nn.functional.pad(level_map.unflatten(1, (height, width)), (0, 0, 1, 1, 1, 1))
        upper, lower = bordered[:, :-1], bordered[:, 1:]
        patches = torch.cat([upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:]], dim=-1)
        x, y = locations[:, :, :, level].unbind(-1)  # (B, S_q, M, P) each
        x, y = (x * width - 0.5).clamp(-1, width), (y * height - 0.5).clamp(-1, height)
        left, top = x.floor().clamp(max=width - 1), y.floor().clamp(max=height - 1)
        corner = (top.nan_to_num(0).long() + 1) * (width + 1) + left.nan_to_num(0).long() + 1
        rows = nn.functional.embedding(block * ((height + 1) * (width + 1)) + corner, patches.flatten(0, 2))
        x, y, weights = x - left, y - top, attention_weights[:, :, :, level]
        weights = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], dim=-1) * weights[..., None]
        samples = rows.unflatten(-1, (4, channels)).flatten(-3, -2)  # (B, S_q, M, P·4, D)
        output = output + weights.flatten(-2)[..., None, :] @ samples
    return output.flatten(2).to(value.dtype)


class LevelGeometry(NamedTuple):
    """Sizes of L feature levels that lie one after another, on the host and on the device, for all layers alike.

    Attributes:
        sizes: (height, width) of each.
        shapes: `(L, 2)` int64, the same.
        starts: `(L,)` int64, where each begins.
        widths_and_heights: `(L, 2)` float32.
    """

    sizes: list[tuple[int, int]]
    shapes: Tensor
    starts: Tensor
    widths_and_heights: Tensor

    @classmethod
    def of(cls, sizes: list[tuple[int, int]], device: torch.device) -> "LevelGeometry":
        """Numbers are filled in on the device, so that nothing waits for a copy."""
        numbers = [torch.full((), n, dtype=torch.int64, device=device) for size in sizes for n in size]
        shapes = torch.stack(numbers).view(-1, 2)
        lengths = shapes.prod(-1)
        return cls(sizes, shapes, lengths.cumsum(0) - lengths, shapes.flip(-1).float())


@use_kernel_forward_from_hub("MultiScaleDeformableAttention")
class MultiScaleDeformableAttention(nn.Module):
    """`sample_levels` under the name and with the arguments of Transformers' deformable detectors.

    So `from_pretrained(..., use_kernels=True)` puts their CUDA kernel in its place where `kernels` is installed.
    Without it, and on other devices, this is what runs.
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
        """
        Args:
            value, sampling_locations, attention_weights: as in `sample_levels`.
            value_spatial_shapes: `(L, 2)` int64, height and width of each level, for the kernel.
            value_spatial_shapes_list: the same on the host.
            level_start_index: `(L,)` int64, where each level begins in `value`, for the kernel.
            im2col_step: images that the kernel takes together.

        Returns:
            `(B, S_q, M·D)`.
        """
        return sample_levels(value, value_spatial_shapes_list, sampling_locations, attention_weights)


class SamplingOffsets(nn.Linear):
    """Offsets of all heads, levels and points, (x, y) in pixels of the level.

    Head m starts looking along the m-th of M rays, point p at distance p + 1, wherever the query is.
    """

    def __init__(self, config: SamDetrConfig):
        self.shape = (config.encoder_attention_heads, config.num_feature_levels, config.encoder_n_points, 2)
        super().__init__(config.d_model, math.prod(self.shape))

    def initialize(self):
        num_heads, _, num_points, _ = self.shape
        angles = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=-1)
        rays = rays / rays.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None] * distances[:, None]  # (M, 1, P, 2)
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
        self,
        hidden_states: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        mask: Tensor,
        levels: LevelGeometry,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            hidden_states: `(B, S, C)`, all levels one after another.
            positions: `(B, S, C)`, added to the queries alone.
            reference_points: `(B, S, L, 2)`, (x, y) of each position on every level, 0 and 1 at the outer pixel edges.
            mask: `(B, S)`, True on valid positions; the others have value 0.
            levels: of the same S positions.

        Returns:
            `(B, S, C)` and the attention weights `(B, S, M, L, P)`.
        """
        value = self.value_proj(hidden_states).masked_fill(~mask[..., None], 0).unflatten(-1, (self.num_heads, -1))
        queries = hidden_states + positions
        offsets = self.sampling_offsets(queries).unflatten(-1, (self.num_heads, self.num_levels, self.num_points, 2))
        weights = self.attention_weights(queries).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, (self.num_levels, self.num_points))
        locations = reference_points[:, :, None, :, None] + offsets / levels.widths_and_heights[:, None]
        output = self.sampling(
            value.to(locations.dtype),  # places are float32, and a kernel wants one kind of numbers
            levels.shapes,
            levels.sizes,
            levels.starts,
            locations,
            weights.to(locations.dtype),
            im2col_step=value.shape[0],  # in a program, len() would fix it
        )
        return self.output_proj(output.to(value.dtype)), weights
