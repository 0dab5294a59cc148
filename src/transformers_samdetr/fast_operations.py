"""Faster ways of operations, on a CPU by bags: weighted sums of those rows of a table, pixels of a map, that are read.

`grid_sample` writes every sample, and products with whole lines multiply zeros. The kernels of PyTorch and torchvision
for a GPU follow; they add up gradients in any order, so that none of them is for deterministic runs.
"""

import math
import warnings
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .operations import (
    KEPT,
    FrozenConv2d,
    Operation,
    bilinear_weights,
    fold,
    region_align,
    region_weights,
    sample_places,
    sample_points,
    sine_wavelengths,
    sum_regions,
    without_autocast,
)

MOST_PARTS = 16
"""Regions of about the same size are computed together, each bin with as many pixels as the largest of them needs."""
PIXELS_A_PART = 2**16
"""Of all bins together, about: with fewer, as small maps have them, operations cost more than zeros that are added."""
MOST_PIECES, WEIGHTS_A_PIECE = 8, 2**18
"""Pieces of the queries in `attend_in_pieces`, and the attention weights that each has at least, about: few enough
pieces for large products, and none too large for a cache."""
MOST_LOGIT = -math.log(1e-5)  # of `geometry.BOX_EPSILON`
CHUNK = 32 * 2**20
"""Numbers in the intermediate of one pass of `align_in_parts`: 128 MiB."""


def weighted_sums(table: Tensor, index: Tensor, weights: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Of the rows of a `(T, D)` table: one for each row of `index`, or for each part of it between two `offsets`."""
    index = index if offsets is None else index.to(offsets.dtype)
    return nn.functional.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=offsets is not None
    )


def rows_in_order(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Which entries of a flat int32 index name row 0, then row 1 …, and where each row begins, `(num_rows + 1,)`."""
    ordered, order = index.sort()
    boundaries = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    return order, torch.searchsorted(ordered, boundaries, out_int32=True)


class BinPixels(NamedTuple):
    """Which regions these are, `(n,)`; rows of a table, one a pixel, and weights, `(n·size², K)`, of all their bins."""

    regions: Tensor
    index: Tensor
    weights: Tensor


def align_by_bags(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Tensor:
    """`operations.region_align`: each bin is a weighted sum of the few pixels that it covers.

    One core, 300 regions of 256 channels in two maps of 60 x 80: forward 0.11 s instead of 0.49 s by products, backward
    0.21 s instead of 0.35 s; in a map of 25 x 34 forward 0.019 s instead of 0.048 s.
    """
    batch_size, height, width, _ = feature_map.shape
    num_queries, corners = corners.shape[1], corners.flatten(0, 1)
    first_rows = torch.arange(batch_size, dtype=torch.int32) * (height * width)
    first_rows = first_rows.repeat_interleave(num_queries)  # of the map that a region lies in
    if valid_size is not None:
        valid_size = valid_size.repeat_interleave(num_queries, dim=0)  # (B·Q, 2)
    bins = ((corners[:, 2:] - corners[:, :2]) / size).ceil().clamp(min=1) + 2  # as many pixels or fewer, in x and y
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
        parts.append(BinPixels(regions, index.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)))
    sums = RegionBags.apply(feature_map.flatten(0, 2), parts, len(corners))
    return sums.view(batch_size, num_queries, size, size, -1)


def align_reduced_by_bags(
    reduction: nn.Conv2d, feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`operations.align_and_reduce` that reduces the map: of 25 x 34 pixels, with backward, 53 ms instead of 80 ms."""
    weight = reduction.weight.flatten(1)
    reduced = nn.functional.linear(feature_map.to(weight.dtype), weight).to(feature_map.dtype)
    regions = align_by_bags(torch.cat([feature_map, reduced], dim=-1), corners, size, valid_size)
    regions, reduced = regions.split([feature_map.shape[-1], len(weight)], dim=-1)
    regions = regions.contiguous() if regions.requires_grad else regions  # a backward would keep both of them
    reduced = reduced.to(weight.dtype).flatten(0, 1).permute(0, 3, 1, 2)
    return regions, reduced + reduction.bias[:, None, None]


def align_factored(
    reduction: nn.Conv2d, feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`operations.align_and_reduce`: in a step of sam-detr-tiny it and sampling take 0.64 times as long as by bags."""
    bins = region_weights(feature_map, corners, size, valid_size)
    weight = reduction.weight.flatten(1)
    reduced = nn.functional.linear(feature_map.to(weight.dtype), weight).to(feature_map.dtype)
    reduced = sum_regions(reduced, *bins).to(weight.dtype).flatten(0, 1).permute(0, 3, 1, 2)
    return (feature_map, *bins), reduced + reduction.bias[:, None, None]


def sample_factored(regions: tuple[Tensor, ...], points: Tensor) -> Tensor:
    """`operations.sample_regions` of a map and its `region_weights`: those of a sample have an x and a y part, too."""
    feature_map, x_weights, y_weights = regions
    x, y = bilinear_weights(points.to(x_weights.dtype), x_weights.shape[2]).unbind(-2)  # (B, Q, P, size) each
    with without_autocast(points):
        weights = ((y @ y_weights)[..., None] * (x @ x_weights)[..., None, :]).flatten(3)  # (B, Q, P, H·W)
        return (weights.flatten(1, 2) @ feature_map.flatten(1, 2)).unflatten(1, points.shape[1:3])


def covered_pixels(
    starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`operations.bin_weights` of n regions without the zeros beside each bin.

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
    """Sums of rows of a table; its gradient is sums of the regions' gradients, sorted by the rows they were made of."""

    @staticmethod
    def forward(ctx, table: Tensor, parts: list[BinPixels], num_regions: int) -> Tensor:
        """A `(T, C)` table to `(regions, size², C)`."""
        ctx.parts, ctx.num_rows = parts, len(table)
        output = table.new_empty(num_regions, len(parts[0].index) // len(parts[0].regions), table.shape[1])
        for regions, index, weights in parts:
            output[regions] = weighted_sums(table, index, weights).unflatten(0, (len(regions), -1))
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor):
        num_bins = gradient.shape[1]
        index = torch.cat([part.index.flatten() for part in ctx.parts])
        weights = torch.cat([part.weights.flatten() for part in ctx.parts])
        bins = []  # for each entry of the index, flat, the bin that it belongs to
        for part in ctx.parts:
            of_part = part.regions.int()[:, None] * num_bins + torch.arange(num_bins, dtype=torch.int32)
            bins.append(of_part.view(-1, 1).expand_as(part.index).flatten())
        order, offsets = rows_in_order(index, ctx.num_rows)
        sources = torch.cat(bins)[order]
        return weighted_sums(gradient.flatten(0, 1).contiguous(), sources, weights[order], offsets), None, None


def sample_by_bags(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`operations.sample_levels`: each sum is a bag of rows of one table. Nothing but its result is rounded.

    One core, 8 heads, 12 samples: at 800 x 1066 0.12 s a layer instead of 0.55 s by `grid_sample`; training likewise.
    """
    batch_size, _, num_heads, channels = value.shape
    table = tabulate(value.to(locations.dtype), level_sizes)  # (B, M, T, D)
    row_length = max(width for _, width in level_sizes) + 1
    index, weights = corners_of(locations, attention_weights.to(locations.dtype), level_sizes, row_length)
    block = torch.arange(batch_size * num_heads, dtype=torch.int32, device=value.device) * table.shape[2]
    index = index + block.view(batch_size, 1, num_heads, 1)
    sums = CornerBags.apply(table.flatten(0, 2), index.flatten(0, 2), weights.flatten(0, 2), row_length)
    return sums.view(batch_size, -1, num_heads * channels).to(value.dtype)


def tabulate(value: Tensor, level_sizes: list[tuple[int, int]]) -> Tensor:
    """All levels as rows of one table, `(B, M, T, D)`, each map with zeros around it.

    Every map has the row length of the widest and one more, so that what is right of a row is left of the next one;
    there is a row above each map, two below, and one more position at each end of the table.
    """
    row_length = max(width for _, width in level_sizes) + 1
    maps = []
    for level, (height, width) in zip(value.split([h * w for h, w in level_sizes], dim=1), level_sizes, strict=True):
        level = level.transpose(1, 2).unflatten(2, (height, width))  # (B, M, H, W, D)
        maps.append(nn.functional.pad(level, (0, 0, 0, row_length - width, 1, 2)).flatten(2, 3))
    return nn.functional.pad(torch.cat(maps, dim=2), (0, 0, 1, 1))


def corners_of(
    locations: Tensor, attention_weights: Tensor, level_sizes: list[tuple[int, int]], row_length: int
) -> tuple[Tensor, Tensor]:
    """The upper left pixel of each sample as a row of the table, and the weights of its four pixels, row by row.

    `(B, S_q, M, L·P)` int32 and `(B, S_q, M, 4, L·P)`.
    """
    num_points, device, dtype = locations.shape[-2], locations.device, locations.dtype
    starts, start = [], 1 + row_length
    for height, _ in level_sizes:
        starts.append(start)
        start += (height + 3) * row_length
    # constants of each level, repeated for its points, so that no operation broadcasts along short dimensions
    width, height, start = (
        torch.cat([torch.full((num_points,), number, dtype=kind, device=device) for number in numbers])
        for numbers, kind in (
            ([width for _, width in level_sizes], dtype),
            ([height for height, _ in level_sizes], dtype),
            (starts, torch.int32),
        )
    )  # (L·P,) each
    x, y = locations.flatten(3, 4).unbind(-1)  # (B, S_q, M, L·P) each
    # a sample that is clamped reads zeros alone, wherever it was
    x = (x * width - 0.5).clamp(width.new_full((), -1), width)
    y = (y * height - 0.5).clamp(height.new_full((), -1), height)
    left, top = x.detach().floor().nan_to_num(0), y.detach().floor().nan_to_num(0)  # the weights stay NaN
    index = top.int() * row_length + left.int() + start
    x, y, weights = x - left, y - top, attention_weights.flatten(3)
    lower = weights * y
    upper = weights - lower
    upper_right, lower_right = upper * x, lower * x
    return index, torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=3)


class CornerBags(torch.autograd.Function):
    """Σ_k Σ_c weights[n, c, k] · table[index[n, k] + step_c], the steps being 0, 1, a row, and a row and 1.

    The table's gradients are bags too, of rows of the outputs' gradient: the indices of the upper left pixels, sorted,
    give the bags of all four, each moved by its step. PyTorch's own backward sorts four times as many.
    """

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, weights: Tensor, row_length: int) -> Tensor:
        """`(T, D)`, `(N, K)` int32, `(N, 4, K)` to `(N, D)`."""
        ctx.steps = (0, 1, row_length, row_length + 1)
        ctx.save_for_backward(table, index, weights)
        return weighted_sums(table, torch.cat([index + step for step in ctx.steps], dim=1), weights.flatten(1))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, index, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[2]:  # a product of matrices, gradient · tableᵀ, at the places alone that were read
            corners = torch.cat([index + step for step in ctx.steps], dim=1)  # (N, 4·K)
            rows = torch.arange(len(index) + 1, dtype=index.dtype, device=index.device) * corners.shape[1]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
                zeros, shape = gradient.new_zeros(corners.numel()), (len(gradient), len(table))
                places = torch.sparse_csr_tensor(rows, corners.flatten(), zeros, shape, check_invariants=False)
            weights_gradient = torch.sparse.sampled_addmm(places, gradient, table.t(), beta=0).values().view_as(weights)
        if ctx.needs_input_grad[0]:
            order, offsets = rows_in_order(index.flatten(), len(table))
            sources, table_gradient = order // index.shape[1], torch.zeros_like(table)
            for corner, step in enumerate(ctx.steps):
                sums = weighted_sums(gradient, sources, weights[:, corner].flatten()[order], offsets)
                table_gradient[step:] += sums[: len(table) - step]
        return table_gradient, None, weights_gradient, None


def attend_in_pieces(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, bias: Any = None
) -> tuple[Tensor, None]:
    """`operations.shared_key_attention`, some queries at a time, so that no large map of weights is held whole.

    SAM-DETR++ with SMCA at 480 x 640, one core, the whole forward: 2.52 s instead of 2.78 s by the reference, 2.77 s by
    scaled_dot_product_attention, which repeats the keys for every head.
    """
    query, mask, keys, outputs = query * module.scaling, mask.squeeze(1), key.transpose(1, 2), []
    num_pieces = min(max(query[..., 0].numel() * key.shape[1] // WEIGHTS_A_PIECE, 1), MOST_PIECES)
    parts = query.chunk(num_pieces, dim=2)
    biases = [None] * len(parts) if bias is None else bias.chunk(num_pieces)
    for part, part_bias in zip(parts, biases, strict=True):
        shift = mask if part_bias is None else part_bias.dense().flatten(1, 2) + mask  # (B, M·q or 1, S)
        if part.dtype in (torch.bfloat16, torch.float16):  # products alone are rounded, neither shift nor softmax
            logits = (part.flatten(1, 2) @ keys).float() + shift
        else:
            logits = torch.baddbmm(shift, part.flatten(1, 2), keys)  # (B, M·q, S)
        weights = nn.functional.dropout(logits.softmax(-1), module.attention_dropout, module.training)
        outputs.append(weights.unflatten(1, part.shape[1:3]).to(value.dtype) @ value)  # (B, M, q, D)
    return torch.cat(outputs, dim=2).transpose(1, 2).flatten(2), None


def align_by_kernel(feature_map: Tensor, corners: Tensor, size: int, valid_size: None = None) -> Tensor:
    """`operations.region_align` by torchvision's kernel, which knows one end for all maps. NaN boxes give 0."""
    batch_size, num_queries = corners.shape[:2]
    boxes = nn.functional.pad(corners, (1, 0))  # (B, Q, 5), the image before the box
    if batch_size > 1:
        boxes[..., 0] += torch.arange(batch_size, device=corners.device)[:, None]
    with without_autocast(corners):
        regions = roi_align(feature_map.permute(0, 3, 1, 2), boxes.flatten(0, 1), size, sampling_ratio=-1, aligned=True)
    return regions.permute(0, 2, 3, 1).unflatten(0, (batch_size, num_queries))


def align_in_parts(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Tensor:
    """The reference of `operations.region_align` for some queries at a time, which bounds its memory."""
    queries_at_once = max(1, CHUNK // (size * feature_map[:, 0].numel()))
    parts = [region_align.reference(feature_map, part, size, valid_size) for part in corners.split(queries_at_once, 1)]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def sample_regions_by_grid(regions: Tensor, points: Tensor) -> Tensor:
    """`operations.sample_regions` by one kernel instead of twenty."""
    maps = regions.permute(0, 1, 4, 2, 3).flatten(0, 1)  # (B·Q, C, size, size)
    return sample_points(maps, points.flatten(0, 1)).unflatten(0, regions.shape[:2])


def sample_by_grid(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`operations.sample_levels`, level by level."""
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in level_sizes], dim=-1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)  # (B·M, S_q, P, 2) each
    samples = []
    for level_map, grid, size in zip(maps, grids, level_sizes, strict=True):
        feature_map = level_map.unflatten(-1, size).to(grid.dtype)  # (B·M, D, H, W)
        sampled = nn.functional.grid_sample(
            feature_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False
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


@lru_cache(maxsize=256)
def _kept(operation: Operation, arguments: tuple, dtype: torch.dtype, device: torch.device) -> Any:
    with torch.inference_mode(False):  # they serve training, too
        return operation.reference(*arguments, torch.empty(0, dtype=dtype, device=device))


def kept(operation: Operation, *arguments: Any) -> Any:
    """An operation on plain numbers and a tensor whose dtype and device it takes, computed once for each of these."""
    *numbers, like = arguments
    return _kept(operation, tuple(numbers), like.dtype, like.device)


@lru_cache(maxsize=16)
def _waves(num_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies and phases `(num_features,)`: cosines are sines that start a quarter of a wave later."""
    with torch.inference_mode(False):
        wavelengths = sine_wavelengths.reference(num_features, torch.empty(0, device=device))
        return 2 * math.pi / wavelengths, torch.arange(num_features, device=device) % 2 * (math.pi / 2)


def embed_points_by_waves(points: Tensor, d_model: int) -> Tensor:
    """`geometry.embed_points` by three kernels instead of six, within 1e-6."""
    frequencies, phases = _waves(d_model // 2, points.device)
    return torch.addcmul(phases, points.float().flip(-1)[..., None], frequencies).sin().flatten(-2)


def logits_by_kernel(x: Tensor) -> Tensor:
    """`geometry.inverse_sigmoid` by three kernels instead of six, within 1e-5."""
    return x.clamp(0, 1).logit().clamp(-MOST_LOGIT, MOST_LOGIT)


def kept_fold(conv: FrozenConv2d) -> tuple[Tensor, Tensor]:
    """`operations.fold` without gradients, computed again once one of its tensors is another or was written to.

    PyTorch does not count what is written through `.data` or NumPy: it shows after `train()`, `eval()` or `to()`.
    """
    norm = conv.norm
    tensors = (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    state = [(x._version, x.untyped_storage()._cdata, x.dtype, x.device) for x in tensors]
    references, before, folded = KEPT.get(conv, ((), None, None))
    if before != state or any(known() is not x for known, x in zip(references, tensors, strict=True)):
        with torch.inference_mode(False), torch.no_grad():
            folded = fold.reference(conv)
        KEPT[conv] = [weakref.ref(x) for x in tensors], state, folded
    return folded
