"""Sine embeddings of map positions and of points (SPEC: backbone and positions, 4 and 5)."""

import math

import torch
from torch import Tensor

TEMPERATURE = 10000
_KNOWN_WAVELENGTHS: dict[int, list[float]] = {}
"""By number of features."""
_ON_DEVICE: dict[tuple[int, torch.device], Tensor] = {}


def _wavelengths(num_features: int, angles: Tensor) -> Tensor:
    """`(num_features,)`, each twice; where they are known, an exported program holds them as numbers."""
    device = angles.device
    if torch.compiler.is_exporting() and num_features in _KNOWN_WAVELENGTHS:
        return torch.tensor(_KNOWN_WAVELENGTHS[num_features], device=device)
    if not _is_ordinary(angles):
        return _compute_wavelengths(num_features, device)
    if (num_features, device) not in _ON_DEVICE:
        with torch.inference_mode(False):  # they serve training, too
            _ON_DEVICE[num_features, device] = _compute_wavelengths(num_features, device)
    return _ON_DEVICE[num_features, device]


def _is_ordinary(x: Tensor) -> bool:
    """Whether it has numbers that are computed now: not in a program, a fake tensor, or a CUDA graph being recorded."""
    if type(x) is not Tensor or x.is_meta or torch.compiler.is_compiling():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _compute_wavelengths(num_features: int, device: torch.device) -> Tensor:
    pair = torch.arange(num_features, dtype=torch.float32, device=device) // 2
    return TEMPERATURE ** (2 * pair / num_features)


def remember_wavelengths(d_model: int):
    """Makes programs that are exported from now on hold what PyTorch computes here.

    Other runtimes round powers otherwise, and where `embed_map` divides by 1e-6 the last bit is a quarter of a radian.
    """
    _KNOWN_WAVELENGTHS[d_model // 2] = _compute_wavelengths(d_model // 2, torch.device("cpu")).tolist()


def _sine_features(angles: Tensor, num_features: int) -> Tensor:
    """`(...)` angles to `(..., num_features)`: sine on even, cosine on odd features, wavelengths growing by pairs."""
    phases = angles[..., None] / _wavelengths(num_features, angles)
    return torch.stack([phases[..., 0::2].sin(), phases[..., 1::2].cos()], dim=-1).flatten(-2)


@torch.no_grad()
def embed_map(mask: Tensor, d_model: int) -> Tensor:
    """Sine embedding of each pixel center, normalised by the valid size.

    Always computed in float32, under autocast and for half-precision models too: on rows and columns without a valid
    pixel the divisor is the rounding error of float32 near 0.5, and the padded positions that result are read by the
    region features.

    Args:
        mask: `(B, H, W)`, True on valid pixels.
        d_model: channels of the embedding; the first half encodes y, the second x.

    Returns:
        `(B, H, W, d_model)` float32.
    """
    with torch.autocast(mask.device.type, enabled=False):
        halves = []
        for axis in (1, 2):
            centers = mask.to(torch.float32).cumsum(axis) - 0.5
            last = centers.narrow(axis, -1, 1)
            # the constant is added in one step: 0.5 + 1e-6 rounds to another divisor than + 0.5, then + 1e-6
            halves.append(_sine_features(centers / (last + (0.5 + 1e-6)) * (2 * math.pi), d_model // 2))
        return torch.cat(halves, dim=-1)


def embed_maps(mask: Tensor, d_model: int) -> Tensor:
    """`embed_map` of each picture, computed and held once where a CPU sees that no picture has padding.

    A GPU is not asked, since one would wait for its answer; nor is it known in a program.

    Returns:
        `(B, H, W, d_model)` float32, of stride 0 along the batch where all are the same: see `held_once`.
    """
    if _is_ordinary(mask) and len(mask) > 1 and mask.device.type == "cpu" and mask.all():
        return embed_map(mask[:1], d_model).expand(len(mask), -1, -1, -1)
    return embed_map(mask, d_model)


def held_once(embedding: Tensor) -> Tensor:
    """`(1, ...)` of a `(B, ...)` embedding that all pictures share, or else the embedding as it is."""
    return embedding[:1] if _is_ordinary(embedding) and embedding.stride(0) == 0 else embedding


@torch.no_grad()
def embed_points(points: Tensor, d_model: int) -> Tensor:
    """Sine embedding of points, y half first, without gradient (as the authors' code computes it).

    Args:
        points: `(..., 2)`, (x, y) normalised by the valid image.
        d_model: channels of the embedding.

    Returns:
        `(..., d_model)` float32, also under autocast: half precision cannot tell neighbouring pixels apart.
    """
    with torch.autocast(points.device.type, enabled=False):
        angles = points.float().flip(-1) * (2 * math.pi)  # y, x
        return _sine_features(angles, d_model // 2).flatten(-2)
