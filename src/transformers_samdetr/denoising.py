"""Denoising queries: noised ground truth that the decoder learns to restore, in training only (DN-DETR)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .configuration_sam_detr import SamDetrConfig
from .geometry import inverse_sigmoid
from .targets import Targets


@dataclass
class DenoisingQueries:
    """P groups of T noised objects, which stand before the ordinary queries.

    Attributes:
        labels: `(B, P·T)` int64, noised; group by group.
        box_logits: `(B, P·T, 4)` float32, logits of the noised boxes (center x, center y, width, height).
        allowed: `(B, 1, P·T + Q, P·T + Q)`, True where a query may attend another one.
        num_groups: P.
    """

    labels: Tensor
    box_logits: Tensor
    allowed: Tensor
    num_groups: int


def add_noise(labels: Tensor, boxes: Tensor, config: SamDetrConfig) -> tuple[Tensor, Tensor]:
    """Labels flipped to a uniform random class, boxes shifted and scaled, each coordinate by itself.

    Args:
        labels: `(…)` int64.
        boxes: `(…, 4)`, center x, center y, width, height, normalised.

    Returns:
        The same shapes; boxes clamped to [0, 1].
    """
    flip = torch.rand(labels.shape, device=labels.device) < config.denoising_label_noise
    noised_labels = torch.where(flip, torch.randint_like(labels, config.num_labels), labels)
    center, size = boxes.split(2, dim=-1)
    noise = config.denoising_box_noise * (2 * torch.rand_like(boxes) - 1)
    noised = torch.cat([center + noise[..., :2] * size / 2, size + noise[..., 2:] * size], dim=-1)
    return noised_labels, noised.clamp(0, 1)


def attention_allowed(valid: Tensor, num_groups: int, num_queries: int) -> Tensor:
    """Who may attend whom: ordinary queries see only each other, a noised one its own group and the ordinary ones.

    Slots that only pad an image with fewer objects are hidden from all but themselves.

    Args:
        valid: `(B, T)`, True where the image has an object.

    Returns:
        `(B, 1, P·T + Q, P·T + Q)` bool, rows attend columns.
    """
    batch_size, num_targets = valid.shape
    device = valid.device
    num_noised = num_groups * num_targets
    ordinary = torch.full((num_queries,), num_groups, device=device)
    group = torch.cat([torch.arange(num_groups, device=device).repeat_interleave(num_targets), ordinary])
    is_ordinary = group == num_groups
    allowed = (group[:, None] == group[None]) | is_ordinary[None]
    seen = torch.cat([valid.repeat(1, num_groups), valid.new_ones(batch_size, num_queries)], dim=1)
    itself = torch.eye(num_noised + num_queries, dtype=torch.bool, device=device)
    return ((allowed & seen[:, None]) | itself)[:, None]


def make_denoising_queries(targets: Targets, config: SamDetrConfig) -> DenoisingQueries:
    """Noised queries for a batch, also for images with different numbers of objects and with none.

    The random numbers come from PyTorch's default generator of the targets' device.
    """
    groups = config.num_denoising_groups
    labels, boxes = add_noise(targets.labels.repeat(1, groups), targets.boxes.repeat(1, groups, 1), config)
    allowed = attention_allowed(targets.valid, groups, config.num_queries)
    return DenoisingQueries(labels, inverse_sigmoid(boxes), allowed, groups)
