"""Which way each operation runs: the one place that asks for device, compiler, gradient mode and determinism.

| operation | eager on a CPU | eager on a GPU | deterministic on a GPU | compiled | exported |
|---|---|---|---|---|---|
| `region_align` | bags | torchvision's kernel | reference, in parts | reference | reference |
| `align_and_reduce` of a small map | map reduced, or factored | reference | reference | reference | reference |
| `sample_regions` | reference, or factored | grid | reference | reference | reference |
| `sample_levels` | bags | grid | reference | grid | reference |
| `shared_key_attention`, "sdpa" | pieces | fused kernel | fused kernel | fused kernel; on a CPU reference | likewise |
| `sine_wavelengths`, `pixel_centers`, `level_geometry` | reference | kept | kept | reference | reference |
| `embed_points`, `inverse_sigmoid` at inference | reference | fewer kernels | fewer kernels | reference | reference |
| `frozen_convolution`, `frozen_norm` | folded | folded | folded | folded | folded |
| `fold` | reference | kept at inference | kept at inference | reference | reference |
| `extract_features` | channels last, at inference in strips | channels last | likewise | likewise | likewise |

Gradients in evaluation mode are computed by references as far as the backbone goes: see `_is_folded`. A CPU's ways are
deterministic. To remove a faster way, delete its line below; to remove a file of them, delete their lines.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .fast_operations import (
    align_by_bags,
    align_by_kernel,
    align_factored,
    align_in_parts,
    align_reduced_by_bags,
    attend_by_interface,
    attend_in_pieces,
    embed_points_by_waves,
    kept,
    kept_fold,
    logits_by_kernel,
    sample_by_bags,
    sample_by_grid,
    sample_factored,
    sample_regions_by_grid,
)
from .fast_resnet import already_applied, features_channels_last, features_in_strips, folded_convolution
from .geometry import embed_points, inverse_sigmoid
from .operations import (
    FrozenConv2d,
    FrozenNorm2d,
    Operation,
    align_and_reduce,
    extract_features,
    fold,
    frozen_convolution,
    frozen_norm,
    level_geometry,
    pixel_centers,
    region_align,
    sample_levels,
    sample_regions,
    shared_key_attention,
    sine_wavelengths,
)

is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has no such function

FEWER_PIXELS, SMALL_MAP = 2, 320
"""A map is reduced before RoIAlign if all regions have so many times its pixels; regions of so few are factored."""
STRIP = 5 * 2**20
"""Elements of the largest feature map in one strip."""
Way = Callable | None


def _is_eager(device: torch.device, kind: str) -> bool:
    # torch.jit.trace cannot record autograd functions of our own
    return device.type == kind and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _suits_gpu_kernels(x: Tensor) -> bool:
    """Whether kernels may run that add up gradients in any order."""
    return _is_eager(x.device, "cuda") and not torch.are_deterministic_algorithms_enabled()


@region_align.routed
def _(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Way:
    if _is_eager(corners.device, "cpu"):
        return align_by_bags
    if _suits_gpu_kernels(corners) and valid_size is None:
        return align_by_kernel
    return None if torch.compiler.is_compiling() else align_in_parts


@align_and_reduce.routed
def _(reduction: nn.Conv2d, feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Way:
    if not _is_eager(corners.device, "cpu"):  # first: compiled code would be compiled again by size
        return None
    height, width = feature_map.shape[1:3]
    if FEWER_PIXELS * height * width > corners.shape[1] * size**2:
        return None
    return align_factored if height * width <= SMALL_MAP else align_reduced_by_bags


@sample_regions.routed
def _(regions: Tensor | tuple[Tensor, ...], points: Tensor) -> Way:
    if isinstance(regions, tuple):
        return sample_factored
    return sample_regions_by_grid if _suits_gpu_kernels(regions) else None


@sample_levels.routed
def _(value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor) -> Way:
    if is_exporting():
        return None
    if _is_eager(value.device, "cpu"):
        return sample_by_bags
    return None if torch.are_deterministic_algorithms_enabled() else sample_by_grid


@shared_key_attention.routed
def _(module: nn.Module, query: Tensor, *others: Tensor) -> Way:
    implementation = module.config._attn_implementation
    if implementation == "eager":
        return None
    if implementation == "sdpa" and query.device.type == "cpu":
        return None if torch.compiler.is_compiling() else attend_in_pieces
    return attend_by_interface


def _may_keep(x: Tensor) -> bool:
    """Whether numbers on the device of `x` may serve later passes, too. A fake tensor has none."""
    is_plain = type(x) in (Tensor, nn.Parameter)
    return is_plain and _is_eager(x.device, "cuda") and not torch.cuda.is_current_stream_capturing()


for made_of_numbers in (sine_wavelengths, pixel_centers, level_geometry):

    @made_of_numbers.routed
    def _(*arguments: Any, operation: Operation = made_of_numbers) -> Way:
        return partial(kept, operation) if _may_keep(arguments[-1]) else None


def _is_folded(norm: nn.Module) -> bool:
    """Whether convolution and norm are computed as one: in training and inference.

    Gradients in evaluation mode are those that people compare with other implementations. With other rounding a ReLU
    input or a sampled position near a threshold can change sides, which moved gradient norms by up to 1.6e-3.
    torch.jit.trace checks a program without gradients, which has to be the same.
    """
    return norm.training or not torch.is_grad_enabled() or torch.jit.is_tracing()


@frozen_convolution.routed
def _(conv: FrozenConv2d, x: Tensor) -> Way:
    return folded_convolution if conv.norm is not None and _is_folded(conv.norm) else None


@frozen_norm.routed
def _(norm: FrozenNorm2d, x: Tensor) -> Way:
    return already_applied if isinstance(norm.convolution, FrozenConv2d) and _is_folded(norm) else None


@embed_points.routed
def _(points: Tensor, d_model: int) -> Way:
    return embed_points_by_waves if not torch.is_grad_enabled() and _may_keep(points) else None


@inverse_sigmoid.routed
def _(x: Tensor) -> Way:
    return logits_by_kernel if not torch.is_grad_enabled() and _is_eager(x.device, "cuda") else None


@fold.routed
def _(conv: FrozenConv2d) -> Way:
    if torch.is_grad_enabled() or not _may_keep(conv.weight):
        return None
    # PyTorch does not count what is written to tensors of inference mode
    return None if any(x.is_inference() for x in (conv.weight, *conv.norm.buffers(recurse=False))) else kept_fold


@extract_features.routed
def _(extractor: nn.Module, pixel_values: Tensor) -> Way:
    if not _is_folded(extractor):
        return None
    if torch.is_grad_enabled() or not _is_eager(pixel_values.device, "cpu"):
        return features_channels_last
    return partial(features_in_strips, numbers_a_strip=STRIP)


ROUTED = tuple(Operation.routed_ones)
"""Every operation that has more than one way."""
