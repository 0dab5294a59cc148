"""Hungarian assignment of queries to objects, for all layers and images with one transfer to the host."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.utils import is_scipy_available

from .configuration_sam_detr import SamDetrConfig
from .geometry import center_to_corners, generalized_iou
from .targets import Targets

if is_scipy_available():  # inference needs no matching
    from scipy.optimize import linear_sum_assignment


@dataclass
class Matches:
    """The N matched pairs of every layer; an image has as many in each layer.

    Attributes:
        image: `(N,)` index of the image.
        query: `(layers, N)` index of the query in its image.
        target: `(layers, N)` index of the object in its image.
    """

    image: Tensor
    query: Tensor
    target: Tensor


def focal_terms(logits: Tensor, alpha: float, gamma: float = 2.0, eps: float = 1e-8) -> Tensor:
    """The focal cost of giving each class to each query: its positive minus its negative term, elementwise."""
    probability = logits.sigmoid()
    positive = alpha * (1 - probability) ** gamma * -(probability + eps).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + eps).log()
    return positive - negative


@torch.no_grad()
def matching_cost(logits: Tensor, boxes: Tensor, targets: Targets, config: SamDetrConfig) -> Tensor:
    """Cost of every query for every object of its own image (SPEC: loss).

    Args:
        logits: `(B, layers, Q, K)` float32.
        boxes: `(B, layers, Q, 4)`, center x, center y, width, height, normalised.

    Returns:
        `(B, layers, Q, T)`; columns that pad an image mean nothing.
    """
    layers, queries = logits.shape[1:3]
    columns = targets.labels[:, None, None].expand(-1, layers, queries, -1)
    # the classes of the image's own objects first: nothing is computed for the others
    cost = config.class_cost * focal_terms(logits.gather(-1, columns), config.focal_alpha)
    objects = targets.boxes[:, None].to(boxes.dtype)  # (B, 1, T, 4)
    cost += config.bbox_cost * torch.cdist(boxes, objects, p=1)
    corners, object_corners = center_to_corners(boxes[..., None, :]), center_to_corners(objects[..., None, :, :])
    return cost.sub_(generalized_iou(corners, object_corners), alpha=config.giou_cost)


def match(logits: Tensor, boxes: Tensor, targets: Targets, config: SamDetrConfig) -> Matches:
    """The cheapest one-to-one assignment of queries to objects, for each layer by itself.

    Args:
        logits: `(B, layers, Q, K)`.
        boxes: `(B, layers, Q, 4)`, center x, center y, width, height, normalised.

    Raises:
        ImportError: scipy is not installed.
    """
    if not is_scipy_available():
        raise ImportError("Training matches queries and objects with scipy: pip install scipy")
    layers, num_queries = logits.shape[1:3]
    for name, count in zip(targets.names, targets.counts, strict=True):
        if count > num_queries:
            warnings.warn(
                f"{name} has {count} objects, more than the {num_queries} queries: {count - num_queries} of them are "
                "not learned. Raise num_queries (resize_num_queries).",
                stacklevel=2,
            )
    cost = matching_cost(logits, boxes, targets, config)
    # predictions that are not finite make the loss so too, which is where training notices; a match must exist for that
    cost = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()  # the one transfer to the host
    matched = [min(count, num_queries) for count in targets.counts]
    found = np.empty((layers, 2, sum(matched)), dtype=np.int64)
    start = 0
    for image, count in enumerate(targets.counts):
        end = start + matched[image]
        for layer in range(layers):
            found[layer, :, start:end] = linear_sum_assignment(cost[image, layer, :, :count])
        start = end
    device = logits.device
    image = torch.from_numpy(np.repeat(np.arange(len(matched)), matched)).to(device, non_blocking=True)
    query, target = torch.from_numpy(found).to(device, non_blocking=True).unbind(1)
    return Matches(image, query, target)
