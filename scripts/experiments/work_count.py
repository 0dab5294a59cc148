"""Work of a model: its multiply-adds for a picture."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stages import UNCOUNTED


@torch.no_grad()
def multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Products that are summed in an inference, as matrix products, convolutions and attention have them.

    Sampling, RoIAlign, norms and activations are not counted, as usual.

    Args:
        model: in whatever mode; it stays as it is.
        height, width: of the one picture, in pixels.
    """
    # of a copy: the counter stumbles over parameters that ask for a gradient while none is recorded
    still = copy.deepcopy(model).eval().requires_grad_(False)
    pixels = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        still(pixel_values=pixels)
    return counter.get_total_flops() // 2
