"""RoIAlign on a CPU: each bin of a region is a weighted sum of the few pixels that it covers.

As products with whole lines (`region_features.multiply_regions`) most factors are 0: a seventh of a box covers few
of a line's pixels. Measured on one core, 300 regions of 256 channels, boxes of half the picture on average, two
maps of 60 x 80: forward 0.11 s instead of 0.49 s, backward 0.21 s instead of 0.35 s; one map of 25 x 34: forward
0.019 s instead of 0.048 s. Smaller boxes cost less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bilinear_bags import rows_in_order, weighted_sums

MOST_PARTS = 16
"""Regions of about the same size are computed together, each bin with as many pixels as the largest of them needs."""
PIXELS_A_PART = 2**16
"""Of all bins together, about: with fewer, as small maps have them, operations cost more than zeros that are added."""


@dataclass
class Bags:
    """The pixels of n regions' bins.

    Attributes:
        regions: `(n,)`, which regions these are.
        index: `(n·size², K)` int32, rows of a table with one row a pixel.
        weights: `(n·size², K)`.
    """

    regions: Tensor
    index: Tensor
    weights: Tensor


def bag_regions(
    feature_maps: Sequence[Tensor], corners: Tensor, size: int, valid_size: Tensor | None = None
) -> list[Tensor]:
    """What `extract_region_features` returns, `(B, Q, size, size, C)` of each map.

    Args:
        feature_maps: `(B, H, W, C)` each, float32 or float64.
        corners: `(B, Q, 4)`, x1, y1, x2, y2 in pixels of the maps.
        size: height and width of the regions.
        valid_size: `(B, 2)`, width and height at which the map of each image ends; by default none ends early.
    """
    batch_size, height, width, _ = feature_maps[0].shape
    num_queries, corners = corners.shape[1], corners.flatten(0, 1)
    first_rows = torch.arange(batch_size, dtype=torch.int32) * (height * width)
    first_rows = first_rows.repeat_interleave(num_queries)  # of the map that a region lies in
    bins = ((corners[:, 2:] - corners[:, :2]) / size).ceil().clamp(min=1) + 2  # as many pixels or fewer, in x and y
    if valid_size is not None:
        valid_size = valid_size.repeat_interleave(num_queries, dim=0)  # (B·Q, 2)
    pixels, parts = bins.prod(-1), []
    num_parts = size**2 * float(pixels.nansum()) / PIXELS_A_PART
    for regions in pixels.argsort().chunk(math.ceil(min(max(num_parts, 1), MOST_PARTS))):
        x1, y1, x2, y2 = corners[regions].unbind(-1)
        valid_width, valid_height = (None, None) if valid_size is None else valid_size[regions].unbind(-1)
        x_index, x_weights = covered_pixels(x1, x2, size, width, valid_width)
        y_index, y_weights = covered_pixels(y1, y2, size, height, valid_height)  # (n, size, K_y)
        rows = first_rows[regions].view(-1, 1, 1) + y_index * width
        index = rows[:, :, None, :, None] + x_index[:, None, :, None, :]  # (n, size, size, K_y, K_x)
        weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
        parts.append(Bags(regions, index.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)))
    regions = RegionBags.apply(parts, len(corners), *(feature_map.flatten(0, 2) for feature_map in feature_maps))
    return [of_map.view(batch_size, num_queries, size, size, -1) for of_map in regions]


def sample_places(
    starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None = None, samples: int | None = None
) -> tuple[Tensor, Tensor]:
    """Where the samples of each bin lie, and how much each counts.

    A bin takes the mean of n equally spaced samples, n being its length rounded up; without length, it is 0. A sample
    in the outer one-pixel band takes the edge's value, and beyond it 0.

    Args:
        starts, ends: `(…)`, in pixels; 0 and `length` are the outer edges of the line.
        size: number of bins.
        length: number of pixels.
        valid_length: where the line ends instead, in pixels, of a shape that broadcasts with `starts`.
        samples: so many places for each bin, used or not; by default what the longest bin needs, which has to be waited
            for on other devices than a CPU.

    Returns:
        `(…, size, samples)` both: places, moved onto the line and counted from the center of its first pixel, and
        weights.
    """
    starts, ends = starts - 0.5, ends - 0.5
    bin_length = ((ends - starts) / size)[..., None, None]
    count = bin_length.ceil()
    step = 1 / count.clamp(min=1)
    end = length if valid_length is None else valid_length[..., None, None]
    samples = max(1, int(count.nan_to_num(0).max())) if samples is None else samples
    sample = torch.arange(samples, dtype=starts.dtype, device=starts.device)
    bins = torch.arange(size, dtype=starts.dtype, device=starts.device)[:, None]
    places = starts[..., None, None] + (bins + (sample + 0.5) * step) * bin_length
    share = ((sample < count) & (places >= -1) & (places <= end)) * step
    return places.clamp(max=end - 1).clamp(min=0), share  # what is not a number stays so, and ends in the regions


def covered_pixels(
    starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weights of `region_features.sampling_weights`, without the zeros beside each bin.

    Args:
        starts, ends, size, length, valid_length: as in `sample_places`, of n regions.

    Returns:
        Pixels `(n, size, K)`, int32, and how much each counts, K being what the longest bin needs.
    """
    places, share = sample_places(starts, ends, size, length, valid_length)  # (n, size, samples)
    first, last = places[..., :1].nan_to_num(0).floor(), places[..., -1:].nan_to_num(0).floor()
    pixels = first + torch.arange(int((last - first).max()) + 2, dtype=starts.dtype)  # (n, size, K)
    distance = (places[..., None] - pixels[..., None, :]).abs()
    weights = ((1 - distance).clamp(min=0) * share[..., None]).sum(-2)
    return pixels.clamp(max=length - 1).int(), weights


class RegionBags(torch.autograd.Function):
    """Sums of rows of tables; their gradients are sums of the regions' ones, sorted by the rows they were made of."""

    @staticmethod
    def forward(ctx, parts: list[Bags], num_regions: int, *tables: Tensor) -> tuple[Tensor, ...]:
        """`(T, C)` of each table to `(regions, size², C)`."""
        ctx.parts, ctx.num_rows = parts, len(tables[0])
        outputs = []
        for table in tables:
            output = None
            for part in parts:
                sums = weighted_sums(table, part.index, part.weights).unflatten(0, (len(part.regions), -1))
                if output is None:
                    output = sums.new_empty(num_regions, *sums.shape[1:])
                output[part.regions] = sums
            outputs.append(output)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        num_bins = gradients[0].shape[1]
        index = torch.cat([part.index.flatten() for part in ctx.parts])
        weights = torch.cat([part.weights.flatten() for part in ctx.parts])
        bins = torch.cat([_bins_of(part, num_bins) for part in ctx.parts])
        order, offsets = rows_in_order(index, ctx.num_rows)
        bins, weights = bins[order], weights[order]
        sums = (weighted_sums(x.flatten(0, 1).contiguous(), bins, weights, offsets) for x in gradients)
        return None, None, *sums


def _bins_of(part: Bags, num_bins: int) -> Tensor:
    """For each entry of the index, flat, the bin that it belongs to: `region · bins + bin`, int32."""
    bins = part.regions.int()[:, None] * num_bins + torch.arange(num_bins, dtype=torch.int32)
    return bins.view(-1, 1).expand_as(part.index).flatten()
