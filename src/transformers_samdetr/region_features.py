"""RoIAlign on a regular grid: on a CPU as in `region_bags`, on a GPU by torchvision's kernel, else as two products.

The products are for compiled code, other devices, determinism, and maps that end early. The samples of a region form a
grid, and bilinear interpolation is a product of an x and a y part. So the region is
`y_weights · features · x_weightsᵀ`, with weights that depend on the boxes alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .box_ops import box_to_pixel_corners
from .region_bags import bag_regions, sample_places

CHUNK = 32 * 2**20
"""Numbers in the intermediate of one pass: 128 MiB."""


def extract_region_features(
    feature_maps: Sequence[Tensor], boxes: Tensor, valid_size: Tensor, size: int, ends_at_valid: bool = False
) -> list[Tensor]:
    """RoIAlign of every query's box (equation 2), with half-pixel alignment and as many samples as a bin has pixels.

    The boxes get no gradient. Regions are computed in float32 where a map has half precision, autocast or not.

    Args:
        feature_maps: `(B, H, W, C)` each, of one size; padded positions are read as they are, unless they
            `ends_at_valid`. Several maps share what depends on the boxes alone.
        boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
        valid_size: `(B, 2)`, width and height of the valid part of the maps, in their pixels.
        size: height and width of the regions.
        ends_at_valid: whether the maps of each image end where its valid part ends, as if there were no padding.

    Returns:
        `(B, Q, size, size, C)` of each map, rows before columns.
    """
    maps = [x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in feature_maps]
    corners = box_to_pixel_corners(boxes.detach().to(valid_size.dtype), valid_size).to(maps[0].dtype)
    valid_size = valid_size.to(corners.dtype) if ends_at_valid else None
    if torch.compiler.is_compiling():
        return multiply_regions(maps, corners, size, valid_size)
    if corners.device.type == "cpu":
        return bag_regions(maps, corners, size, valid_size)
    if suits_gpu_kernels(corners) and not ends_at_valid:  # torchvision's knows one end for all images
        return align_regions(maps, corners, size)
    return multiply_regions(maps, corners, size, valid_size)


def suits_gpu_kernels(x: Tensor) -> bool:
    """Whether to sample by a GPU's kernels, which add gradients in any order, and which a program cannot have."""
    return x.is_cuda and not torch.compiler.is_compiling() and not torch.are_deterministic_algorithms_enabled()


def align_regions(feature_maps: Sequence[Tensor], corners: Tensor, size: int) -> list[Tensor]:
    """`region_bags.bag_regions` by torchvision's kernel, for maps without ends of their own for each image.

    A box that is not a number gets zeros here; the salient points and boxes that follow from it are none either.
    """
    batch_size, num_queries = corners.shape[:2]
    images = torch.arange(batch_size, dtype=corners.dtype, device=corners.device)[:, None, None]
    boxes = torch.cat([images.expand(-1, num_queries, -1), corners], dim=-1).flatten(0, 1)
    regions = []
    with torch.autocast(corners.device.type, enabled=False):
        for feature_map in feature_maps:
            of_map = roi_align(feature_map.permute(0, 3, 1, 2), boxes, size, sampling_ratio=-1, aligned=True)
            regions.append(of_map.permute(0, 2, 3, 1).unflatten(0, (batch_size, num_queries)))
    return regions


def multiply_regions(
    feature_maps: Sequence[Tensor], corners: Tensor, size: int, valid_size: Tensor | None = None
) -> list[Tensor]:
    """`region_bags.bag_regions` on any device and in compiled code, by matrix products."""
    height, width = feature_maps[0].shape[1:3]
    valid_width, valid_height = (None, None) if valid_size is None else valid_size[..., None].unbind(1)  # (B, 1) each
    x_weights = sampling_weights(corners[..., 0], corners[..., 2], size, width, valid_width)  # (B, Q, size, W)
    y_weights = sampling_weights(corners[..., 1], corners[..., 3], size, height, valid_height)  # (B, Q, size, H)
    with torch.autocast(corners.device.type, enabled=False):
        return [_multiply(feature_map, x_weights, y_weights) for feature_map in feature_maps]


def _multiply(feature_map: Tensor, x_weights: Tensor, y_weights: Tensor) -> Tensor:
    """`(B, H, W, C)`, `(B, Q, size, W)` and `(B, Q, size, H)` to `(B, Q, size, size, C)`."""
    num_queries, size = x_weights.shape[1:3]
    queries_at_once = max(1, CHUNK // (size * feature_map[:, 0].numel()))
    if torch.compiler.is_compiling():
        queries_at_once = num_queries  # a number of passes that depends on the map would be compiled for each size
    lines = feature_map.flatten(2)  # (B, H, W·C)
    regions = []
    for x_part, y_part in zip(x_weights.split(queries_at_once, 1), y_weights.split(queries_at_once, 1), strict=True):
        rows = (y_part.flatten(1, 2) @ lines).unflatten(1, (-1, size)).unflatten(3, feature_map.shape[2:])
        regions.append(x_part[:, :, None] @ rows)  # (B, q, size, W, C) to (B, q, size, size, C)
    return torch.cat(regions, dim=1) if len(regions) > 1 else regions[0]


def sampling_weights(
    starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None = None
) -> Tensor:
    """How much each pixel of a line counts in each bin of a region.

    Args:
        starts, ends, size, length, valid_length: as in `sample_places`.

    Returns:
        `(…, size, length)`.
    """
    places, share = sample_places(starts, ends, size, length, valid_length, samples=-(-length // size) + 1)
    pixels = torch.arange(length, dtype=starts.dtype, device=starts.device)
    distance = (places[..., None] - pixels).abs()
    return ((1 - distance).clamp(min=0) * share[..., None]).sum(-2)
