"""Inference of a timm ResNet without its large maps.

Its first maps, at stride 2 and 4, are ten times as large as those that are kept. Here they are made for some rows of
the picture at a time, up to the first map at stride 8. And on a CPU the last convolution of each block, a matrix
product, adds to the shortcut where it lies, instead of writing a second map to be added. Outputs differ by rounding
alone. Measured for SAM-DETR-R50 at 800 x 1066 on a CPU: at most 72 MiB beside the weights instead of 147 MiB, by
PyTorch's own count.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from timm.models._features import FeatureListNet
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from .frozen_batch_norm import FoldedBatchNorm2d, FoldedConv2d

STRIP = 5 * 2**20
"""Numbers of the largest map in a strip; more strips compute more rows twice, for neighbours share some."""
STRIP_ELSEWHERE = 64 * 2**20
"""On a GPU, where a strip that is too small to fill it takes as long as a larger one: 256 MiB."""


def in_strips(layers: Callable[[Tensor], Tensor], x: Tensor, stride: int, reach: int, height: int) -> Tensor:
    """`layers(x)`, some rows at a time.

    Args:
        layers: padded so that row r of their output is centered at row r · stride of their input.
        x: `(B, C, H, W)`.
        stride: of the rows.
        reach: how many rows above and below its center an output reads.
        height: rows of a strip of the output.

    Returns:
        `(B, C_out, ⌈H / stride⌉, W_out)`, channels last in memory.
    """
    rows = -(-x.shape[2] // stride)
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


class InPlaceBottleneck(Bottleneck):
    """timm's block; on a CPU, without gradients, its input, the output of the block before, is overwritten.

    On a GPU it stays a convolution, which may round to TF32 as the others do where a product may not.
    """

    def forward(self, x: Tensor) -> Tensor:
        if _needs_maps() or x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        inner = self.act1(self.bn1(self.conv1(x)))
        inner = self.act2(self.bn2(self.conv2(inner)))
        output = x if self.downsample is None else self.downsample(x)
        weight, shift = self.conv3.folded()
        rows = output.permute(0, 2, 3, 1).flatten(0, 2)  # (B·H·W, C), a view
        rows += shift.to(rows.dtype)
        rows.addmm_(inner.permute(0, 2, 3, 1).flatten(0, 2), weight.flatten(1).t().to(rows.dtype))
        return self.act3(output)


class FeaturesInStrips(FeatureListNet):
    """timm's features of a ResNet, whose first stages are computed in strips where no gradient needs their maps."""

    def _collect(self, x: Tensor) -> dict[str, Tensor]:
        if _needs_maps():
            return super()._collect(x)
        names = list(self)
        second = names.index("layer2")
        early = nn.Sequential(*(self[name] for name in names[:second]), self["layer2"][0])
        # the stem and its pooling see 3 + 1 · 2 rows beside the center, a 3 x 3 convolution at stride 4 sees 4
        reach = 5 + 4 * (len(self["layer1"]) + 1)
        numbers = len(x) * self["conv1"].out_channels * 4 * -(-x.shape[3] // 2)  # at stride 2, for a row at stride 8
        strip = STRIP if x.device.type == "cpu" else STRIP_ELSEWHERE
        x = in_strips(early, x, 8, reach, max(1, strip // numbers))
        features = OrderedDict()
        for name in names[second:]:
            for block in self[name][name == "layer2" :]:  # one by one: a stage would hold its input to its end
                x = block(x)
            if name in self.return_layers:
                features[self.return_layers[name]] = x
        return features


def _needs_maps() -> bool:
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def save_memory(module: nn.Module, in_strips: bool = True):
    """Makes blocks add in place and features come `in_strips` wherever `module` has those of timm; names stay."""
    for part in list(module.modules()):
        if type(part) is Bottleneck and type(part.conv3) is FoldedConv2d and not _has_more(part):
            part.__class__ = InPlaceBottleneck  # the same parts, computed otherwise
    for part in list(module.modules()):
        if in_strips and type(part) is FeatureListNet and _has_plain_start(part):
            part.__class__ = FeaturesInStrips


def _has_more(block: Bottleneck) -> bool:
    """Whether it has more than convolutions, norms and activations: attention, dropped paths, blurring."""
    parts = (block.se, block.drop_path, block.aa, block.drop_block)
    return any(part is not None and not isinstance(part, nn.Identity) for part in parts)


def _has_plain_start(net: FeatureListNet) -> bool:
    """Whether it begins as the ResNet of the paper, and nobody asks for features of stride 2 or 4."""
    start = ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2"]
    if list(net)[:6] != start or set(start[:5]) & set(net.return_layers):
        return False
    stem, norm, pool = net["conv1"], net["bn1"], net["maxpool"]
    blocks = [*net["layer1"], *net["layer2"]]
    return (
        (type(stem), type(norm), type(pool)) == (FoldedConv2d, FoldedBatchNorm2d, nn.MaxPool2d)
        and (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3))
        and (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, 2, 1, False)
        and all(type(block) is InPlaceBottleneck and block.conv2.kernel_size == (3, 3) for block in blocks)
        and blocks[len(net["layer1"])].conv2.stride == (2, 2)
        and all(block.conv2.dilation == (1, 1) for block in blocks)
    )
