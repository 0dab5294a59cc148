"""A backbone that computes of a padded picture what it computes of the picture alone (`mask_padding=True`)."""

# Alone, a picture ends where convolutions and poolings see their own border. In a batch padding stands there, and soon
# features of it. So each layer that looks beyond its own position is given a border in its place.
# A layer with odd kernel, padded by half of it, makes ⌈h / s⌉ rows of h, as taking every s-th row does; so the mask
# of a map with stride s is `pixel_mask[:, ::s, ::s]`, whatever the size.

import torch
from timm.layers import Conv2dSame, FrozenBatchNormAct2d, to_2tuple
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models._features import FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from transformers.utils.output_capturing import CompileableContextVar

from .configuration_sam_detr import SamDetrConfigError
from .operations import FrozenConv2d, FrozenNorm2d, extract_features

POINTWISE = (nn.Identity, nn.ReLU, nn.ReLU6, FrozenNorm2d, FrozenBatchNorm2d, FrozenBatchNormAct2d)
BLOCKS = (BasicBlock, Bottleneck, DepthwiseSeparableConv, InvertedResidual)
CONTAINERS = (FeatureListNet, EfficientNetFeatures, nn.Sequential, *BLOCKS)
"""Modules whose forward computes with their children alone, in their order, and adds positions to positions."""

_PIXEL_MASK = CompileableContextVar("pixel_mask")  # each thread its own, as data-parallel replicas need it


def hook_masks(extractor: nn.Module) -> list[int]:
    """Prepares a backbone, in place, for `extract_masked_features`; returns the stride of each of its feature maps.

    A layer that is not known to leave the picture alone raises a `SamDetrConfigError`.
    """
    backbone = getattr(extractor, "_backbone", extractor)  # timm's model within Transformers' wrapper
    _prepare(backbone, "", 1)
    return list(backbone.feature_info.reduction())


def _prepare(module: nn.Module, name: str, stride: int) -> int:
    """Hooks what looks beyond its position; `stride` is that of the map it reads, the result that of the one it makes.

    Types are compared exactly: whoever inherits may compute anything.
    """
    if type(module) in POINTWISE:
        return stride
    if type(module) in CONTAINERS:
        out = stride
        for child_name, child in module.named_children():
            is_branch = child_name == "downsample"  # reads what its block reads, beside the others
            made = _prepare(child, f"{name}.{child_name}".lstrip("."), stride if is_branch else out)
            out = out if is_branch else made
        return out
    if not (_is_centered(module) or is_resnet_d_pooling(module)):
        place = f"layer {name!r} of the backbone" if name else "the backbone as a whole"
        kind = str(module).partition("\n")[0].rstrip("(")  # of a block its type alone
        problem = f"{place}, {kind}, may read padding in ways that cannot be taken out"
        remedy = (
            "choose one of timm's plain ResNets or EfficientNet-Lites, such as resnet50, or leave mask_padding=False "
            "and pad all pictures to one size with the image processor's pad_size"
        )
        raise SamDetrConfigError.of("mask_padding", True, f"{problem}; {remedy}.")
    if max(to_2tuple(module.kernel_size)) > 1:
        module.input_stride = stride
        module.register_forward_pre_hook(_give_border)
    return stride * to_2tuple(module.stride)[0]


def is_resnet_d_pooling(module: nn.Module) -> bool:
    """Whether a layer is the pooling of ResNet-D's downsampling: means over what there is of 2 x 2 positions."""
    if type(module) is not nn.AvgPool2d or not module.ceil_mode or module.divisor_override:
        return False
    return [to_2tuple(size) for size in (module.kernel_size, module.stride, module.padding)] == [(2, 2), (2, 2), (0, 0)]


def _is_centered(module: nn.Module) -> bool:
    """Whether a layer makes ⌈h / stride⌉ rows of h, from zeros or, in max pooling, nothing beyond the border."""
    if type(module) not in (nn.Conv2d, FrozenConv2d, Conv2dSame, nn.MaxPool2d):
        return False
    kernel, dilation, stride = (to_2tuple(getattr(module, name)) for name in ("kernel_size", "dilation", "stride"))
    spans = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
    if any(span % 2 for span in spans) or stride[0] != stride[1]:
        return False
    if type(module) is Conv2dSame:
        return stride[0] == 2
    if type(module) is nn.MaxPool2d and (module.ceil_mode or module.return_indices):
        return False
    is_half = not isinstance(module.padding, str) and list(to_2tuple(module.padding)) == [span // 2 for span in spans]
    return is_half and getattr(module, "padding_mode", "zeros") == "zeros"


def extract_masked_features(extractor: nn.Module, pixel_values: Tensor, pixel_mask: Tensor) -> list[Tensor]:
    """The feature maps of a backbone that `hook_masks` has prepared; what they hold in padding means nothing.

    `pixel_mask` is `(B, height, width)`, True on real pixels, which fill a rectangle at the top left of `pixel_values`.
    """
    pixel_mask = pixel_mask[:, None]
    # from here on all numbers are finite, so that masks may be factors, several times as fast
    pixel_values = torch.where(pixel_mask, pixel_values, 0.0)
    token = _PIXEL_MASK.set(pixel_mask)
    try:
        return extract_features(extractor, pixel_values)
    finally:
        _PIXEL_MASK.reset(token)


def _give_border(layer: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
    """Forward pre-hook: what the layer would find around each picture alone, in place of its padding."""
    pixel_mask = _PIXEL_MASK.get()
    if pixel_mask is None:  # the extractor is called by itself, on whole pictures
        return None
    (x,) = inputs
    mask = pixel_mask[..., :: layer.input_stride, :: layer.input_stride]
    if isinstance(layer, nn.AvgPool2d):
        return _repeat_edge(x, mask)
    if isinstance(layer, nn.MaxPool2d):
        # it passes over its own border: the lowest number wins nowhere, and unlike -inf stays harmless in padding
        return torch.where(mask, x, x.detach().min())
    # `export.program.OpenConv2d` has room for both paddings: a row and a column more than there were
    has_room = type(layer) is not Conv2dSame
    return _align_same_padding(x * mask, mask, has_room) if isinstance(layer, Conv2dSame) else x * mask


def _repeat_edge(x: Tensor, mask: Tensor) -> Tensor:
    """Valid positions once more beyond the border: a mean over two of each is the mean over those that there are."""
    x = torch.where(mask[..., :1], x, nn.functional.pad(x, (0, 0, 1, -1)))
    return torch.where(mask[..., :1, :], x, nn.functional.pad(x, (1, -1, 0, 0)))


def _align_same_padding(x: Tensor, mask: Tensor, has_room: bool) -> Tensor:
    """Moves pictures by the pixel by which TensorFlow's padding of a convolution with stride 2 differs for them.

    It pads an odd length by one more than an even one, and at the start. So the map is made even, and pictures of odd
    length move one pixel from the start: they end in padding, or the map would not be even.
    """
    more_width, more_height = (1, 1) if has_room else (x.shape[-1] % 2, x.shape[-2] % 2)
    x = nn.functional.pad(x, (1, more_width, 1, more_height))
    # pictures of even size lose the first row and column, those of odd size the last
    odd_height = (mask[..., :1].sum(-2, keepdim=True) % 2).to(x.dtype)  # (B, 1, 1, 1), 0 or 1
    odd_width = (mask[..., :1, :].sum(-1, keepdim=True) % 2).to(x.dtype)
    x = x[..., 1:, :].lerp(x[..., :-1, :], odd_height)  # at 0 and 1 exactly the one or the other
    return x[..., 1:].lerp(x[..., :-1], odd_width)


def group_norm(x: Tensor, mask: Tensor, norm: nn.GroupNorm) -> Tensor:
    """A GroupNorm whose mean and variance are those of the valid positions.

    `x` is `(B, C, H, W)`; `mask` `(B, H, W)` is True on valid positions, a rectangle at the top left.
    """
    numbers = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (norm.num_groups, -1))
    # a column and a row: a sum over a strided map would tie compiled code to one kind of sizes
    area = mask[:, :, 0].sum(-1) * mask[:, 0].sum(-1)
    count = (area * numbers.shape[2]).clamp(min=1).view(-1, 1, 1, 1, 1)
    mask = mask[:, None, None]  # (B, 1, 1, H, W), of (B, groups, C/groups, H, W)
    mean = torch.where(mask, numbers, 0.0).sum((2, 3, 4), keepdim=True) / count
    centered = torch.where(mask, numbers - mean, 0.0)
    variance = centered.square().sum((2, 3, 4), keepdim=True) / count
    normalised = (centered * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return (normalised * norm.weight[:, None, None] + norm.bias[:, None, None]).to(x.dtype)
