"""Hungarian assignment of queries to objects, for all layers and images with one transfer to the host."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import is_scipy_available

from .box_ops import center_to_corners, generalized_iou
from .configuration_sam_detr import SamDetrConfig
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
    class_cost = focal_terms(logits, config.focal_alpha).gather(-1, columns)
    candidates, objects = boxes[..., None, :], targets.boxes[:, None, None]
    box_cost = (candidates - objects).abs().sum(-1)
    overlap = generalized_iou(center_to_corners(candidates), center_to_corners(objects))
    return config.class_cost * class_cost + config.bbox_cost * box_cost - config.giou_cost * overlap


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
    pairs: list[list[list[int]]] = [[[], []] for _ in range(layers)]
    images: list[int] = []
    for image, count in enumerate(targets.counts):
        images += [image] * min(count, num_queries)
        for layer in range(layers):
            query, target = linear_sum_assignment(cost[image, layer, :, :count])
            pairs[layer][0] += query.tolist()
            pairs[layer][1] += target.tolist()
    device = logits.device
    found = torch.tensor(pairs, dtype=torch.int64).view(layers, 2, -1).to(device, non_blocking=True)
    image = torch.tensor(images, dtype=torch.int64).to(device, non_blocking=True)
    return Matches(image, found[:, 0], found[:, 1])
