"""Frozen backbones: norms folded into convolutions, and inference of a timm ResNet without its large maps on a CPU.

ResNet-50 at 800 x 1066 on one core: 1.60 s as it was, 1.06 s folded and with channels last. By strips and sums in place
SAM-DETR-R50 holds at most 72 MiB beside its weights there, instead of 147 MiB, and takes 0.95 times as long.
"""

import re
from collections.abc import Callable

import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from .operations import FrozenConv2d, FrozenNorm2d, fold

PLAIN_RESNETS = re.compile(r"resnet(26|50|101|152)(\..*)?")
"""Names that timm gives them, perhaps with that of their weights."""


def folded_convolution(conv: FrozenConv2d, x: Tensor) -> Tensor:
    """`operations.frozen_convolution` and the norm after it, by scaled weights and a bias: two passes less."""
    return conv._conv_forward(x, *fold(conv))


def already_applied(norm: FrozenNorm2d, x: Tensor) -> Tensor:
    """`operations.frozen_norm` after `folded_convolution`."""
    return x


def features_channels_last(extractor: nn.Module, pixel_values: Tensor) -> list[Tensor]:
    """`operations.extract_features` in the layout in which convolutions are fastest."""
    return extractor(pixel_values.contiguous(memory_format=torch.channels_last)).feature_maps


def features_in_strips(extractor: nn.Module, pixel_values: Tensor, numbers_a_strip: int) -> list[Tensor]:
    """`operations.extract_features` without gradients; other networks than `has_plain_start` take their own way.

    The first maps, ten times as large as those that are kept, are made for some rows of the picture at a time, up to
    the first map at stride 8. Blocks add to the output of the block before, in place.

    Args:
        extractor, pixel_values: of the operation.
        numbers_a_strip: of the largest map in a strip; more strips compute more rows twice, for neighbours share some.
    """
    if not has_plain_start(extractor):
        return features_channels_last(extractor, pixel_values)
    net = extractor._backbone  # timm's model within Transformers' wrapper
    names = list(net)
    second = names.index("layer2")

    def early(x: Tensor) -> Tensor:
        for name in names[: second - 1]:
            x = net[name](x)
        for block in [*net["layer1"], net["layer2"][0]]:
            x = _add_in_place(block, x)
        return x

    x = pixel_values.contiguous(memory_format=torch.channels_last)
    # the stem and its pooling see 3 + 1 · 2 rows beside the center, a 3 x 3 convolution at stride 4 sees 4
    reach = 5 + 4 * (len(net["layer1"]) + 1)
    numbers = len(x) * net["conv1"].out_channels * 4 * -(-x.shape[3] // 2)  # at stride 2, for a row at stride 8
    height = max(1, numbers_a_strip // numbers)
    if any(part._forward_pre_hooks for part in net["layer1"].modules()):  # they read whole maps, as masks are
        height = x.shape[2]
    x = in_strips(early, x, 8, reach, height)
    maps = []
    for name in names[second:]:
        for block in net[name][name == "layer2" :]:  # one by one: a stage would hold its input to its end
            x = _add_in_place(block, x)
        if name in net.return_layers:
            maps.append(x)
    return maps


def in_strips(layers: Callable[[Tensor], Tensor], x: Tensor, stride: int, reach: int, height: int) -> Tensor:
    """`layers(x)`, some rows at a time.

    Args:
        layers: padded so that row r of their output is centered at row r · `stride` of their input, and reads `reach`
            rows above and below it.
        x: `(B, C, H, W)`.
        height: rows of a strip of the output.
    """
    rows = -(-x.shape[2] // stride)
    if height >= rows:
        return layers(x)
    early = -(-reach // stride)  # rows of the output to leave out, for they read beyond the strip
    output = None
    for start in range(0, rows, height):
        end, first = min(start + height, rows), max(start - early, 0)
        strip = layers(x[:, :, first * stride : (end - 1) * stride + reach + 1])
        if output is None:
            output = strip.new_empty(len(x), rows, strip.shape[3], strip.shape[1]).permute(0, 3, 1, 2)
        output[:, :, start:end] = strip[:, :, start - first : end - first]
        del strip
    return output


def _add_in_place(block: Bottleneck, x: Tensor) -> Tensor:
    """timm's block, which overwrites its input, the output of the block before."""
    inner = block.act1(block.bn1(block.conv1(x)))
    inner = block.act2(block.bn2(block.conv2(inner)))
    output = x if block.downsample is None else block.downsample(x)
    output = output.contiguous(memory_format=torch.channels_last)  # as it is already, but for rare sizes
    weight, shift = fold(block.conv3)
    rows = output.permute(0, 2, 3, 1).flatten(0, 2)  # (B·H·W, C), a view
    rows += shift.to(rows.dtype)
    rows.addmm_(inner.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t().to(rows.dtype))
    return block.act3(output)


def has_plain_start(extractor: nn.Module) -> bool:
    """Whether it is a ResNet of the paper, as timm makes it, and nobody asks for features of stride 2 or 4."""
    if not PLAIN_RESNETS.fullmatch(getattr(extractor.config, "backbone", None) or ""):
        return False
    net = extractor._backbone
    blocks = [block for name, stage in net.items() if name.startswith("layer") for block in stage]
    return not {"act1", "layer1"} & set(net.return_layers) and all(type(b.conv3) is FrozenConv2d for b in blocks)
