"""Operations on a GPU, by PyTorch's and torchvision's kernels; `sample_by_grid` is for compiled code, too.

Kernels add up gradients in any order, so that none of these is for deterministic runs.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .operations import FrozenNorm2d, region_align, scale_and_shift, sine_wavelengths, without_autocast

CHUNK = 32 * 2**20
"""Numbers in the intermediate of one pass of `align_regions_in_parts`: 128 MiB."""


def align_regions(feature_map: Tensor, corners: Tensor, size: int, valid_size: None = None) -> Tensor:
    """`operations.region_align` by torchvision's kernel, which knows one end for all maps. NaN boxes give 0."""
    batch_size, num_queries = corners.shape[:2]
    images = torch.arange(batch_size, dtype=corners.dtype, device=corners.device)[:, None, None]
    boxes = torch.cat([images.expand(-1, num_queries, -1), corners], dim=-1).flatten(0, 1)
    with without_autocast(corners):
        regions = roi_align(feature_map.permute(0, 3, 1, 2), boxes, size, sampling_ratio=-1, aligned=True)
    return regions.permute(0, 2, 3, 1).unflatten(0, (batch_size, num_queries))


def align_regions_in_parts(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Tensor:
    """The reference of `operations.region_align` for some queries at a time, which bounds its memory."""
    queries_at_once = max(1, CHUNK // (size * feature_map[:, 0].numel()))
    parts = [region_align.reference(feature_map, part, size, valid_size) for part in corners.split(queries_at_once, 1)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def sample_regions_by_grid(regions: Tensor, points: Tensor) -> Tensor:
    """`operations.sample_regions` by one kernel instead of twenty."""
    maps = regions.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (B·Q, C, size, size)
    grid = points.flatten(0, 1)[:, None].to(maps.dtype)  # (B·Q, 1, P, 2)
    sampled = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2).unflatten(0, regions.shape[:2])


def sample_by_grid(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`operations.sample_levels`, level by level."""
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
    return output.view(batch_size, -1, num_queries).transpose(1, 2).to(value.dtype)


def attend_by_interface(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, bias: Any = None
) -> tuple[Tensor, Tensor | None]:
    """`operations.shared_key_attention` by the implementation that the configuration names, such as a fused kernel."""
    interface = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    mask = (mask if bias is None else bias.dense() + mask).to(query.dtype)
    dropout = module.attention_dropout if module.training else 0.0
    keys = key[:, None].expand(-1, query.shape[1], -1, -1)
    output, weights = interface(module, query, keys, value, mask, scaling=module.scaling, dropout=dropout)
    return output.flatten(2), weights


_WAVELENGTHS: dict[tuple[int, torch.device], Tensor] = {}


def kept_wavelengths(num_features: int, like: Tensor) -> Tensor:
    """`operations.sine_wavelengths`, computed once a device."""
    key = num_features, like.device
    if key not in _WAVELENGTHS:
        with torch.inference_mode(False):  # they serve training, too
            _WAVELENGTHS[key] = sine_wavelengths.reference(num_features, like)
    return _WAVELENGTHS[key]


_PREPARED: ContextVar[Mapping[nn.Module, tuple[Tensor, Tensor]]] = ContextVar("prepared", default=MappingProxyType({}))


def with_norms_prepared(extract: Callable, extractor: nn.Module, pixel_values: Tensor) -> list[Tensor]:
    """`operations.extract_features` with all frozen norms prepared by five operations, instead of five for each.

    Scales and shifts are kept for this pass alone, and for this thread, so nothing has to notice when a norm changes.
    """
    norms = [module for module in extractor.modules() if type(module) is FrozenNorm2d]
    token = _PREPARED.set(scales_and_shifts(norms) if norms else {})
    try:
        return extract(extractor, pixel_values)
    finally:
        _PREPARED.reset(token)


def scales_and_shifts(norms: list[FrozenNorm2d]) -> dict[FrozenNorm2d, tuple[Tensor, Tensor]]:
    """What `operations.scale_and_shift` returns for each, by operations that take all of them at once."""
    scales = torch._foreach_add([norm.running_var for norm in norms], [norm.eps for norm in norms])
    torch._foreach_rsqrt_(scales)
    torch._foreach_mul_(scales, [norm.weight for norm in norms])
    shifts = torch._foreach_mul([norm.running_mean for norm in norms], scales)
    shifts = torch._foreach_sub([norm.bias for norm in norms], shifts)
    return dict(zip(norms, zip(scales, shifts, strict=True), strict=True))


def prepared_scale_and_shift(norm: FrozenNorm2d) -> tuple[Tensor, Tensor]:
    """`operations.scale_and_shift`, looked up where it is prepared."""
    prepared = _PREPARED.get()
    return prepared[norm] if norm in prepared else scale_and_shift.reference(norm)
