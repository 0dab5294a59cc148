"""Boxes, the logit space in which they are refined, and sine embeddings of places."""

import math

import torch
from torch import Tensor

from .operations import Operation, sine_wavelengths, without_autocast

BOX_EPSILON = 1e-5
"""How far from 0 and 1 a coordinate is kept before its logit is taken."""


@Operation
def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of `x`, with `x` and `1 - x` kept at least `BOX_EPSILON`.

    >>> inverse_sigmoid(torch.tensor([0.5, 0.0])).round(decimals=3)
    tensor([  0.0000, -11.5130])
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=BOX_EPSILON) / (1 - x).clamp(min=BOX_EPSILON))


def center_to_corners(boxes: Tensor) -> Tensor:
    """`(..., 4)` boxes (center x, center y, width, height) to (x1, y1, x2, y2), in the same unit.

    >>> center_to_corners(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    tensor([0.2500, 0.0000, 0.7500, 1.0000])
    """
    center, size = boxes.split(2, dim=-1)
    return torch.cat([center.sub(size, alpha=0.5), center.add(size, alpha=0.5)], dim=-1)


def box_to_pixel_corners(boxes: Tensor, valid_size: Tensor) -> Tensor:
    """`(B, Q, 4)` boxes as the model predicts them to corners in pixels of a map.

    `valid_size` is `(B, 2)`, width and height of each valid image, in pixels of the map.
    """
    boxes = boxes.unflatten(-1, (2, 2)) * valid_size[:, None, None]
    return center_to_corners(boxes.flatten(-2))


def generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised intersection over union, in [-1, 1], of corner boxes (x1, y1, x2, y2) in one unit, by broadcasting.

    `boxes[:, None], others[None]` give all pairs. It is 0 where both boxes are empty and their hull has no area.

    >>> generalized_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2]]))
    tensor([1.0000, 0.3333, 0.0000])
    """
    # each coordinate contiguous: all pairs then run over rows of memory
    x1, y1, x2, y2 = boxes.movedim(-1, 0).contiguous().unbind()
    u1, v1, u2, v2 = others.movedim(-1, 0).contiguous().unbind()
    inner_width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    inner_height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = inner_width * inner_height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - intersection
    hull = (torch.maximum(x2, u2) - torch.minimum(x1, u1)) * (torch.maximum(y2, v2) - torch.minimum(y1, v1))
    # two points would be 0/0; anything that has an area divides by that area alone
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _sine_features(angles: Tensor, num_features: int) -> Tensor:
    """`(...)` angles to `(..., num_features)`: sine on even, cosine on odd features, wavelengths growing by pairs."""
    phases = angles[..., None] / sine_wavelengths(num_features, angles)
    return torch.stack([phases[..., 0::2].sin(), phases[..., 1::2].cos()], dim=-1).flatten(-2)


@torch.no_grad()
def embed_map(mask: Tensor, d_model: int) -> Tensor:
    """`(B, H, W, d_model)` sine embedding of each pixel center, normalised by the valid size; first half y, second x.

    Always computed in float32, under autocast and for half-precision models too: on rows and columns without a valid
    pixel (False in `mask`, `(B, H, W)`) the divisor is the rounding error of float32 near 0.5, and the padded positions
    that result are read by the region features.
    """
    with without_autocast(mask):
        halves = []
        for axis in (1, 2):
            centers = mask.to(torch.float32).cumsum(axis) - 0.5
            last = centers.narrow(axis, -1, 1)
            # the constant is added in one step: 0.5 + 1e-6 rounds to another divisor than + 0.5, then + 1e-6
            halves.append(_sine_features(centers / (last + (0.5 + 1e-6)) * (2 * math.pi), d_model // 2))
        return torch.cat(halves, dim=-1)


@Operation
@torch.no_grad()
def embed_points(points: Tensor, d_model: int) -> Tensor:
    """`(..., d_model)` sine embedding of `(..., 2)` points (equation 6), (x, y) normalised by the valid image.

    The y half is first; there is no gradient, as in the authors' code. Float32 under autocast too: half precision
    cannot tell neighbouring pixels apart.
    """
    with without_autocast(points):
        angles = points.float().flip(-1) * (2 * math.pi)  # y, x
        return _sine_features(angles, d_model // 2).flatten(-2)
