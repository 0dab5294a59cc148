"""Operations of the model that have faster versions. The function below `@Operation` is the reference: plain PyTorch,
right on every device, in training and inference, under autocast and determinism, compiled and exported. `routes` sends
calls to faster ways with the same results, but not within [`reference_operations`]."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models._features import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class Operation:
    """A `reference` and a `route`, which takes the arguments of a call and returns a faster way for them, or None."""

    references_only = False
    routed_ones: list["Operation"] = []

    def __init__(self, reference: Callable):
        update_wrapper(self, reference)
        self.reference = reference
        self.route: Callable[..., Callable | None] = lambda *args: None

    def __call__(self, *args: Any) -> Any:
        way = None if Operation.references_only else self.route(*args)
        return self.reference(*args) if way is None else way(*args)

    def routed(self, route: Callable[..., Callable | None]) -> Callable[..., Callable | None]:
        """Decorator: `route` decides from now on."""
        self.route = route
        Operation.routed_ones.append(self)
        return route

    @contextmanager
    def computed_by(self, way: Callable) -> Iterator[None]:
        """Every call runs `way` while this lasts."""
        route, self.route = self.route, lambda *args: way
        try:
            yield
        finally:
            self.route = route


@contextmanager
def reference_operations() -> Iterator[None]:
    """Runs every operation by its reference while this lasts, in all threads: plain PyTorch, slower, to compare."""
    before, Operation.references_only = Operation.references_only, True
    try:
        yield
    finally:
        Operation.references_only = before


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 where it has half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> torch.autocast:
    """Context in which autocast rounds nothing on the device of `x`."""
    return torch.autocast(x.device.type, enabled=False)


def sample_places(
    starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None = None, samples: int | None = None
) -> tuple[Tensor, Tensor]:
    """Where the samples of each bin of a region lie along one axis, and how much each counts.

    A bin takes the mean of n equally spaced samples, n being its length rounded up; without length, it is 0. A sample
    up to one pixel outside the line takes the value at its edge; farther out it counts 0.

    Args:
        starts, ends: `(…)`, in pixels; 0 and `length` are the outer edges of the line. NaN gives NaN places.
        size: number of bins.
        length: number of pixels.
        valid_length: where the line ends instead, in pixels, of a shape that broadcasts with `starts`.
        samples: places reserved for each bin; by default what the longest bin needs, which waits for the device.

    Returns:
        `(…, size, samples)` both: places on the line, counted from the center of its first pixel, and weights.
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
    return places.clamp(max=end - 1).clamp(min=0), share


def bin_weights(starts: Tensor, ends: Tensor, size: int, length: int, valid_length: Tensor | None = None) -> Tensor:
    """How much each pixel of a line counts in each bin: `(…, size, length)`; arguments as in `sample_places`."""
    places, share = sample_places(starts, ends, size, length, valid_length, samples=-(-length // size) + 1)
    pixels = torch.arange(length, dtype=starts.dtype, device=starts.device)
    distance = (places[..., None] - pixels).abs()
    return ((1 - distance).clamp(min=0) * share[..., None]).sum(-2)


@Operation
def region_align(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None) -> Tensor:
    """RoIAlign of every box, with half-pixel alignment and as many samples as a bin has pixels (equation 2).

    The samples of a region form a grid, and bilinear interpolation is a product of an x and a y part. So a region is
    `y_weights · features · x_weightsᵀ`, with weights that depend on the box alone.

    Args:
        feature_map: `(B, H, W, C)`, float32 or float64.
        corners: `(B, Q, 4)` boxes x1, y1, x2, y2 in pixels of the map, of its dtype and without gradient. NaN boxes
            give NaN or 0, depending on the way.
        size: height and width of the regions, `(B, Q, size, size, C)`, rows before columns.
        valid_size: `(B, 2)`, width and height at which the map of each image ends; by default none ends early.
    """
    return sum_regions(feature_map, *region_weights(feature_map, corners, size, valid_size))


def region_weights(feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None) -> tuple[Tensor, Tensor]:
    """The x and the y part of regions, `(B, Q, size, W)` and `(B, Q, size, H)`; arguments as in `region_align`."""
    _, height, width, _ = feature_map.shape
    valid_width, valid_height = (None, None) if valid_size is None else valid_size[..., None].unbind(1)  # (B, 1) each
    x_weights = bin_weights(corners[..., 0], corners[..., 2], size, width, valid_width)
    return x_weights, bin_weights(corners[..., 1], corners[..., 3], size, height, valid_height)


def sum_regions(feature_map: Tensor, x_weights: Tensor, y_weights: Tensor) -> Tensor:
    """Regions `(B, Q, size, size, C)` of a `(B, H, W, C)` map by their two parts."""
    with without_autocast(feature_map):
        rows = y_weights.flatten(1, 2) @ feature_map.flatten(2)  # (B, Q·size, W·C)
        rows = rows.unflatten(1, y_weights.shape[1:3]).unflatten(3, feature_map.shape[2:])  # (B, Q, size, W, C)
        return x_weights[:, :, None] @ rows


@Operation
def align_and_reduce(
    reduction: nn.Conv2d, feature_map: Tensor, corners: Tensor, size: int, valid_size: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`region_align`, and its regions after a 1x1 convolution, `(B·Q, C', size, size)`; both are linear."""
    regions = region_align(feature_map, corners, size, valid_size)
    maps = regions.to(reduction.weight.dtype).flatten(0, 1).permute(0, 3, 1, 2)
    return regions, nn.Conv2d.forward(reduction, maps)


def bilinear_weights(places: Tensor, length: int) -> Tensor:
    """How much each of `length` pixels counts at `(…)` places, -1 and 1 being the outer pixel edges: `(…, length)`."""
    places = ((places + 1) * length - 1) / 2
    first = places.detach().floor()
    share = (places - first)[..., None]
    distance = torch.arange(length, device=places.device, dtype=places.dtype) - first[..., None]
    return torch.where(distance == 0, 1 - share, torch.where(distance == 1, share, 0.0))


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples `(N, P, C)` of `(N, C, H, W)` at `(N, P, 2)` points, -1 and 1 being the edges, 0 outside."""
    grid = points[:, None].to(maps.dtype)  # (N, 1, P, 2)
    sampled = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled[:, :, 0].transpose(1, 2)


@Operation
def sample_regions(regions: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples `(B, Q, P, C)` of `(B, Q, size, size, C)` regions, 0 beyond their edges (equation 5).

    Each region has its own points `(B, Q, P, 2)`, (x, y) with -1 and 1 at its outer edges.
    """
    x, y = bilinear_weights(points, regions.shape[2]).unbind(-2)  # (B, Q, P, size) each
    weights = (y[..., :, None] * x[..., None, :]).flatten(-2)  # (B, Q, P, size²)
    return weights.to(regions.dtype) @ regions.flatten(2, 3)


@Operation
def sample_levels(
    value: Tensor, level_sizes: list[tuple[int, int]], locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples from every feature level (Deformable DETR, section 4.1).

    Args:
        value: `(B, S, M, D)`, the levels one after another, S = ΣH·W.
        level_sizes: (height, width) of each of the L levels.
        locations: `(B, S_q, M, L, P, 2)`, (x, y) with 0 and 1 at the outer pixel edges; outside the map a sample is 0.
            Float32 at least: half precision cannot tell neighbouring pixels apart.
        attention_weights: `(B, S_q, M, L, P)`, which sum to 1 over L and P.

    Returns:
        `(B, S_q, M·D)`, of the dtype of `value`. A NaN location makes its own sum NaN, and no other.
    """
    batch_size, _, num_heads, channels = value.shape
    block = torch.arange(batch_size * num_heads, device=value.device).view(batch_size, 1, num_heads, 1)
    maps = value.to(locations.dtype).transpose(1, 2).flatten(0, 1)  # (B·M, S, D)
    output = 0.0
    for level, (level_map, (height, width)) in enumerate(
        zip(maps.split([h * w for h, w in level_sizes], dim=1), level_sizes, strict=True)
    ):
        # within a border of zeros, each pixel and its right, lower and lower right neighbours side by side
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


@Operation
def shared_key_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, bias: Any = None
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention whose heads have their own queries and values, and share the keys (equation 1).

    Args:
        module: has `scaling`, `attention_dropout`, `training` and, for other ways, `config._attn_implementation`.
        query: `(B, M, Q, C)`.
        key: `(B, S, C)`.
        value: `(B, M, S, D)`.
        mask, bias: `(B, 1, 1, S)`, and an `attention.AxisBias` or None; both are added to the logits.

    Returns:
        `(B, Q, M·D)`, the heads side by side, and the weights `(B, M, Q, S)`, or None where they are not kept.
    """
    logits = (query.flatten(1, 2) @ key.transpose(1, 2)).unflatten(1, query.shape[1:3]) * module.scaling
    logits = logits + (mask if bias is None else bias.dense() + mask).to(query.dtype)
    weights = nn.functional.dropout(logits.softmax(-1), module.attention_dropout, module.training)
    return (weights @ value).transpose(1, 2).flatten(2), weights


TEMPERATURE = 10000


@Operation
def sine_wavelengths(num_features: int, like: Tensor) -> Tensor:
    """`(num_features,)` float32 on the device of `like`, each twice, growing from 1 to nearly 10000."""
    pair = torch.arange(num_features, dtype=torch.float32, device=like.device) // 2
    return TEMPERATURE ** (2 * pair / num_features)


@Operation
def pixel_centers(count: int, like: Tensor) -> Tensor:
    """Where the centers of so many pixels in a row lie, `(count,)`: ½, 1½ and so on; dtype and device of `like`."""
    return torch.arange(count, dtype=like.dtype, device=like.device) + 0.5


class LevelGeometry(NamedTuple):
    """Sizes of L feature levels that lie one after another, on the host and on the device, for all layers alike."""

    sizes: tuple[tuple[int, int], ...]  # height and width of each
    shapes: Tensor  # (L, 2) int64, the same
    starts: Tensor  # (L,) int64, where each begins
    widths_and_heights: Tensor  # (L, 2) float32


@Operation
def level_geometry(sizes: tuple[tuple[int, int], ...], like: Tensor) -> LevelGeometry:
    """On the device of `like`, where numbers are filled in, so that nothing waits for a copy."""
    numbers = [torch.full((), n, dtype=torch.int64, device=like.device) for size in sizes for n in size]
    shapes = torch.stack(numbers).view(-1, 2)
    lengths = shapes.prod(-1)
    return LevelGeometry(sizes, shapes, lengths.cumsum(0) - lengths, shapes.flip(-1).float())


@Operation
def extract_features(extractor: nn.Module, pixel_values: Tensor) -> list[Tensor]:
    """The feature maps `(B, channels, H, W)` of a Transformers backbone, finest first, of normalised pixels."""
    return extractor(pixel_values).feature_maps


@Operation
def resize_mask(pixel_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The `(B, H, W)` bool mask of a feature map of this size, by nearest-neighbour interpolation."""
    return nn.functional.interpolate(pixel_mask[:, None].float(), size=size)[:, 0] > 0.5


class FrozenNorm2d(nn.Module):
    """A frozen batch norm, one scale and one shift a channel, under the names of the batch norm that it replaces."""

    def __init__(self, norm: FrozenBatchNorm2d | FrozenBatchNormAct2d, block: nn.Module, convolution: str):
        super().__init__()
        self._place = (block, convolution)  # a tuple: the block is not a part of its norm
        self.eps = norm.eps
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(frozen_norm(self, x)))

    @property
    def convolution(self) -> nn.Module:
        """What its block applies before it: a `FrozenConv2d`, or what a library has put there, such as a LoRA layer."""
        block, name = self._place
        return getattr(block, name)


KEPT: MutableMapping[nn.Module, tuple] = WeakKeyDictionary()
"""What `fast_operations.kept_fold` keeps of convolutions until `train()`, `eval()` or `to()`."""


class FrozenConv2d(nn.Conv2d):
    """The convolution before a frozen batch norm, so that both may be computed as one.

    Its block owns the norm, whose state stays under its own name; so it is in a tuple here.
    """

    _norm: tuple = ()  # of convolutions that a library makes of this type, as LoRA does

    @property
    def norm(self) -> FrozenNorm2d | None:
        """The norm that its block applies to its output; None within a LoRA layer, which adds to the output first."""
        return self._norm[0] if self._norm and self._norm[0].convolution is self else None

    def forward(self, x: Tensor) -> Tensor:
        return frozen_convolution(self, x)

    def train(self, mode: bool = True):
        KEPT.pop(self, None)
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        KEPT.pop(self, None)
        return super()._apply(*args, **kwargs)


@Operation
def fold(conv: FrozenConv2d) -> tuple[Tensor, Tensor]:
    """Weight `(C_out, C_in / groups, h, w)` and bias `(C_out,)` that stand for convolution and norm together."""
    scale, shift = scale_and_shift(conv.norm)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


def scale_and_shift(norm: FrozenNorm2d) -> tuple[Tensor, Tensor]:
    """What a frozen norm multiplies with and adds, `(C,)` each."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


@Operation
def frozen_convolution(conv: FrozenConv2d, x: Tensor) -> Tensor:
    """The convolution without its norm. A way that applies the norm too needs `frozen_norm` to apply nothing."""
    return nn.Conv2d.forward(conv, x)


@Operation
def frozen_norm(norm: FrozenNorm2d, x: Tensor) -> Tensor:
    """`(B, C, H, W)`, scaled and shifted."""
    scale, shift = (numbers.view(1, -1, 1, 1) for numbers in scale_and_shift(norm))
    return x * scale + shift


IN_ORDER = (nn.Sequential, FeatureListNet, BasicBlock, Bottleneck, DepthwiseSeparableConv, InvertedResidual)
"""Modules that hand the output of a convolution to the norm that is their next child, and to nothing else."""


def freeze_batch_norms(module: nn.Module) -> nn.Module:
    """Freezes every batch norm, in place, and pairs it with its convolution where that is known; all names stay."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.weight.is_meta and not norm.running_mean.is_meta:
            # accelerate's init_empty_weights: parameters are on meta, buffers are not, and these become buffers
            norm._parameters.update({name: nn.Parameter(torch.ones(norm.num_features)) for name in norm._parameters})
    module = freeze_batch_norm_2d(module)
    for block in [part for part in module.modules() if type(part) in IN_ORDER]:
        children = list(block.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            is_plain = type(conv) is nn.Conv2d and conv.bias is None and conv.padding_mode == "zeros"
            if is_plain and isinstance(norm, (FrozenBatchNorm2d, FrozenBatchNormAct2d)):
                frozen = FrozenNorm2d(norm, block, conv_name)
                setattr(block, norm_name, frozen)
                conv.__class__, conv._norm = FrozenConv2d, (frozen,)
    return module


def is_frozen_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch norm that `freeze_batch_norms` froze, paired with a convolution or not."""
    return isinstance(module, (FrozenBatchNorm2d, FrozenBatchNormAct2d, FrozenNorm2d))
