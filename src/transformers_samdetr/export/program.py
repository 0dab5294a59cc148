"""A detector as a `torch.export` program: tensors in, tensors out, one program for every batch and size."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..image_processing_sam_detr import best_detections
from ..modeling_sam_detr import SamDetrForObjectDetection
from ..operations import FrozenConv2d, FrozenNorm2d, fold, resize_mask, sine_wavelengths
from ..padding_masks import is_resnet_d_pooling

SMALLEST_SIDE = 33
"""Height and width, in pixels, from which a program takes pictures: more than the stride of the coarsest map."""


class ExportableDetector(nn.Module):
    """What an exported file computes, from a copy of a detector of any floating type.

    `top_k` detections of each picture are found inside; None leaves post-processing to whoever runs it.
    """

    def __init__(self, model: SamDetrForObjectDetection, top_k: int | None = None):
        super().__init__()
        self.model = prepare(copy.deepcopy(model)).eval().requires_grad_(False)
        self.top_k = top_k

    def forward(
        self, pixel_values: Tensor, pixel_mask: Tensor, target_sizes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """
        Args:
            pixel_values: `(B, 3, H, W)` float32, normalised pixels, padded at the bottom and right.
            pixel_mask: `(B, H, W)` int64, 1 on real pixels.
            target_sizes: `(B, 2)` int64, height and width of each picture in pixels, with `top_k` alone.

        Returns:
            `logits` `(B, Q, K)` and `pred_boxes` `(B, Q, 4)`, as the model returns them, in float32; or with `top_k`
            `scores` `(B, top_k)` in descending order, `labels` `(B, top_k)` int64 and `boxes` `(B, top_k, 4)`,
            x1, y1, x2, y2 in pixels of `target_sizes`.
        """
        outputs = self.model.model(pixel_values.to(self.model.dtype), pixel_mask)
        logits = self.model.class_heads[-1](outputs.last_hidden_state).float()  # those before serve training alone
        boxes = outputs.intermediate_boxes[:, -1]
        if self.top_k is None:
            return {"logits": logits, "pred_boxes": boxes}
        scores, labels, boxes = best_detections(logits, boxes, self.top_k, target_sizes)
        return {"scores": scores, "labels": labels, "boxes": boxes}


class OpenConv2d(Conv2dSame):
    """TensorFlow's padding of a convolution with stride 2, for sizes that stay open.

    It pads an odd length by one more than an even one, and at the start. As numbers of a shape, such cases within cases
    would take an hour to trace; here they are a choice between two slices.
    """

    def forward(self, x: Tensor) -> Tensor:
        before = [side // 2 for side in self.kernel_size]  # of an odd length, on both sides
        if self._forward_pre_hooks:  # mask_padding's has moved odd pictures by one already
            x = nn.functional.pad(x, (before[1] - 1, before[1], before[0] - 1, before[0]))
        else:
            is_odd = [torch.full((), side, device=x.device) % 2 == 1 for side in x.shape[-2:]]
            x = nn.functional.pad(x, (before[1], before[1] + 1, before[0], before[0] + 1))
            x = torch.where(is_odd[0], x[..., :-1, :], x[..., 1:, :])
            x = torch.where(is_odd[1], x[..., :-1], x[..., 1:])
        return self._conv_forward(x, self.weight, self.bias)


class OpenAvgPool2d(nn.AvgPool2d):
    """ResNet-D's pooling, means over what there is of 2 x 2 positions, for sizes that stay open.

    AOTInductor reads beyond a map of odd length where the map that was traced had an even one. Here the last row and
    column come twice, and where they are needed a mean over two of each is the mean over those that there are.
    """

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"), 2)


class AppliedNorm(FrozenNorm2d):
    """A frozen norm that the weights before it apply: what is left are its activation and drop block."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


def prepare(model: nn.Module) -> nn.Module:
    """Makes a model's convolutions and poolings fit for a program, in place, after which it can do nothing else.

    Each frozen batch norm is written into the weights that apply it, once instead of in every forward.
    """
    for module in model.modules():
        if type(module) is FrozenConv2d:
            weight, bias = fold(module)
            module.norm.__class__ = AppliedNorm
            module.__class__ = nn.Conv2d  # with the hooks that it has, which mask_padding needs
            module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
            del module._norm
        elif type(module) is Conv2dSame and module.stride == (2, 2) and module.dilation == (1, 1):
            module.__class__ = OpenConv2d
        elif is_resnet_d_pooling(module):
            module.__class__ = OpenAvgPool2d
    return model


def example_inputs(
    num_channels: int = 3, batch_size: int = 2, height: int = 128, width: int = 160, seed: int = 0
) -> dict[str, Tensor]:
    """Random pictures and their sizes, by input name; all but the first are smaller than the batch, each otherwise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(batch_size, num_channels, height, width)
    mask = torch.zeros(batch_size, height, width, dtype=torch.int64)
    sizes = []
    for index in range(batch_size):
        rows = height - index * height // (2 * batch_size)
        columns = width - 2 * index % batch_size * width // (2 * batch_size)
        pixels[index, :, :rows, :columns] = torch.randn(num_channels, rows, columns, generator=generator)
        mask[index, :rows, :columns] = 1
        sizes.append((rows, columns))
    return {"pixel_values": pixels, "pixel_mask": mask, "target_sizes": torch.tensor(sizes)}


def constant_wavelengths(num_features: int, like: Tensor) -> Tensor:
    """`operations.sine_wavelengths` as numbers in the program.

    Other runtimes round powers otherwise, and where `embed_map` divides by 1e-6 the last bit is a quarter of a radian.
    """
    wavelengths = sine_wavelengths.reference(num_features, torch.empty(0, device="cpu"))
    return torch.tensor(wavelengths.tolist(), device=like.device)


def resize_mask_by_index(pixel_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """`operations.resize_mask`; other runtimes find another neighbour where a place is a whole number."""
    nearest = []
    for length, made in zip(pixel_mask.shape[-2:], size, strict=True):  # in the arithmetic of PyTorch's interpolation
        old, new = (torch.full((), n, dtype=torch.float32, device=pixel_mask.device) for n in (length, made))
        places = torch.arange(made, dtype=torch.float32, device=pixel_mask.device) * (old / new)
        nearest.append(torch.minimum(places.floor(), old - 1).long())
    return pixel_mask[:, nearest[0]][:, :, nearest[1]] > 0.5


@torch.no_grad()
def capture(detector: ExportableDetector) -> ExportedProgram:
    """Traces the detector, on whatever device it is, with batch, height and width left open."""
    config = detector.model.config
    inputs = example_inputs(config.num_channels)
    if detector.top_k is None:
        del inputs["target_sizes"]
    batch, height, width = Dim("batch"), Dim("height", min=SMALLEST_SIDE), Dim("width", min=SMALLEST_SIDE)
    shapes = {
        "pixel_values": {0: batch, 2: height, 3: width},
        "pixel_mask": {0: batch, 1: height, 2: width},
        "target_sizes": {0: batch},
    }
    constants, masks = sine_wavelengths.computed_by(constant_wavelengths), resize_mask.computed_by(resize_mask_by_index)
    with constants, masks, without_stack_traces():
        options = {"strict": False, "prefer_deferred_runtime_asserts_over_guards": True}
        return torch.export.export(
            detector, (), kwargs=inputs, dynamic_shapes={name: shapes[name] for name in inputs}, **options
        )


@contextlib.contextmanager
def without_stack_traces() -> Iterator[None]:
    """Tracing within records no stack traces, which take half of its time and hold the paths of this machine."""
    before, torch.fx.config.do_not_emit_stack_traces = torch.fx.config.do_not_emit_stack_traces, True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before
