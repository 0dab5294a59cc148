"""Weighted sums of bilinear samples from several maps on a CPU: each sum is a bag of rows of one table.

`grid_sample` writes every sample before they are weighted and added; here nothing is written but the sums. Measured on
one core against it, eight heads of 32 channels, 12 samples a query: at 800 x 1066 0.12 s a layer instead of 0.55 s;
forward and backward of two images of 480 x 640 0.4 times its time.
"""

import warnings

import torch
from torch import Tensor, nn


def sample_bags(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """What `deformable_attention.sample_levels` computes, with the same arguments."""
    batch_size, _, num_heads, channels = value.shape
    table = tabulate(value, level_sizes)  # (B, M, T, D)
    row_length = max(width for _, width in level_sizes) + 1
    index, weights = corners(locations, attention_weights, level_sizes, row_length)  # (B, S_q, M, L·P), four of these
    block = torch.arange(batch_size * num_heads, dtype=torch.int32, device=value.device) * table.shape[2]
    index = index + block.view(batch_size, 1, num_heads, 1)
    sums = CornerBags.apply(table.flatten(0, 2), index.flatten(0, 2), weights.flatten(0, 2), row_length)
    return sums.view(batch_size, -1, num_heads * channels)


def tabulate(value: Tensor, level_sizes: list[tuple[int, int]]) -> Tensor:
    """All levels as rows of one table, `(B, M, T, D)`, each map with zeros around it.

    Every map has the same row length, one more than the widest: what lies right of a row is left of the next one. There
    is a row above each map, two below, and one more position at each end of the table.
    """
    row_length = max(width for _, width in level_sizes) + 1
    maps = []
    for level, (height, width) in zip(value.split([h * w for h, w in level_sizes], dim=1), level_sizes, strict=True):
        level = level.transpose(1, 2).unflatten(2, (height, width))  # (B, M, H, W, D)
        maps.append(nn.functional.pad(level, (0, 0, 0, row_length - width, 1, 2)).flatten(2, 3))
    return nn.functional.pad(torch.cat(maps, dim=2), (0, 0, 1, 1))


def corners(
    locations: Tensor, attention_weights: Tensor, level_sizes: list[tuple[int, int]], row_length: int
) -> tuple[Tensor, Tensor]:
    """The upper left pixel of each sample as a row of the table, and the weights of its four pixels.

    Returns:
        `(B, S_q, M, L·P)` int32 and `(B, S_q, M, 4, L·P)`: upper left, upper right, lower left, lower right.
    """
    num_points, device, dtype = locations.shape[-2], locations.device, locations.dtype
    starts, start = [], 1 + row_length
    for height, _ in level_sizes:
        starts.append(start)
        start += (height + 3) * row_length
    # constants of each level, repeated for its points, so that no operation broadcasts along short dimensions
    filled = [
        torch.cat([torch.full((num_points,), number, dtype=kind, device=device) for number in numbers])
        for numbers, kind in (
            ([width for _, width in level_sizes], dtype),
            ([height for height, _ in level_sizes], dtype),
            (starts, torch.int32),
        )
    ]
    width, height, start = filled  # (L·P,) each
    x, y = locations.flatten(3, 4).unbind(-1)  # (B, S_q, M, L·P) each
    # a sample that is clamped reads zeros alone, wherever it was
    x = (x * width - 0.5).clamp(width.new_full((), -1), width)
    y = (y * height - 0.5).clamp(height.new_full((), -1), height)
    left, top = x.detach().floor().nan_to_num(0), y.detach().floor().nan_to_num(0)  # the weights stay not a number
    index = top.int() * row_length + left.int() + start
    x, y, weights = x - left, y - top, attention_weights.flatten(3)
    lower = weights * y
    upper = weights - lower
    upper_right, lower_right = upper * x, lower * x
    return index, torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=3)


class CornerBags(torch.autograd.Function):
    """Σ_k Σ_c weights[n, c, k] · table[index[n, k] + step_c], the steps being 0, 1, a row, and a row and 1.

    Gradients of the table are bags as well, of the rows of the outputs' gradient: sorting the indices of the upper left
    pixels alone gives the bags of all four, each moved by its step. PyTorch's own backward sorts four times as many.
    """

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, weights: Tensor, row_length: int) -> Tensor:
        """`(T, D)`, `(N, K)` int32, `(N, 4, K)` to `(N, D)`."""
        ctx.steps = (0, 1, row_length, row_length + 1)
        ctx.save_for_backward(table, index, weights)
        return weighted_sums(table, _all_corners(index, ctx.steps), weights.flatten(1))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        table, index, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[2]:
            weights_gradient = _sampled_products(gradient, table, _all_corners(index, ctx.steps)).view_as(weights)
        if ctx.needs_input_grad[0]:
            order, offsets = rows_in_order(index.flatten(), len(table))
            sources = order // index.shape[1]
            table_gradient = torch.zeros_like(table)
            for corner, step in enumerate(ctx.steps):
                moved = weights[:, corner].flatten()[order]
                sums = weighted_sums(gradient, sources, moved, offsets)
                table_gradient[step:] += sums[: len(table) - step]
        return table_gradient, None, weights_gradient, None


def rows_in_order(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Which entries of a flat int32 index name row 0, then row 1 …, and where each row begins, `(num_rows + 1,)`."""
    ordered, order = index.sort()
    boundaries = torch.arange(num_rows + 1, dtype=index.dtype, device=index.device)
    return order, torch.searchsorted(ordered, boundaries, out_int32=True)


def _all_corners(index: Tensor, steps: tuple[int, ...]) -> Tensor:
    return torch.cat([index + step for step in steps], dim=1)  # (N, 4·K)


def weighted_sums(table: Tensor, index: Tensor, weights: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Of the rows of a `(T, D)` table: one for each row of `index`, or for each part of it between two `offsets`."""
    if offsets is not None:
        index = index.to(offsets.dtype)
    return nn.functional.embedding_bag(
        index, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=offsets is not None
    )


def _sampled_products(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """`left[n] · right[index[n, k]]` for all n and k, flat: a product of matrices at a few places only."""
    rows = torch.arange(len(index) + 1, dtype=index.dtype, device=index.device) * index.shape[1]
    shape = (len(left), len(right))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            rows, index.flatten(), left.new_zeros(index.numel()), shape, check_invariants=False
        )
    return torch.sparse.sampled_addmm(places, left, right.t(), beta=0).values()
