"""The training loss: focal + L1 + GIoU of every layer, matched by the Hungarian algorithm, and of denoising queries."""

import torch
from torch import Tensor, nn

from .configuration_sam_detr import SamDetrConfig
from .geometry import center_to_corners, generalized_iou
from .matcher import match
from .operations import without_autocast
from .targets import Targets


def focal_loss(logits: Tensor, alpha: float, present: bool, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (RetinaNet, equation 5) of each element, not reduced.

    Args:
        logits: any shape.
        alpha: weight of a class that is there; that of one that is not is 1 - alpha.
        present: whether the classes of all these logits are there.
    """
    logits, weight = (-logits, alpha) if present else (logits, 1 - alpha)
    return weight * logits.sigmoid() ** gamma * nn.functional.softplus(logits)


def presence_correction(logits: Tensor, alpha: float) -> Tensor:
    """What to add to the focal loss of absent classes for each of these logits, whose classes are there.

    Almost all of the logits belong to absent classes. This way none is told apart from the others, which would take
    dense one-hot targets, a dozen passes over all logits and as much memory.
    """
    return focal_loss(logits, alpha, present=True) - focal_loss(logits, alpha, present=False)


def box_losses(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - GIoU, `(...)` each, of pairs of `(..., 4)` boxes (cx, cy, width, height, normalised)."""
    distance = (boxes - targets).abs().sum(-1)
    return distance, 1 - generalized_iou(center_to_corners(boxes), center_to_corners(targets))


def average_num_boxes(targets: Targets) -> Tensor:
    """Number of objects of all processes divided by the number of processes, at least 1; a float32 scalar.

    Summed over the processes and divided once: a mean that is divided again would weigh the loss by their number.
    """
    total = torch.full((), sum(targets.counts), dtype=torch.float32, device=targets.boxes.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return total.clamp(min=1)


def matched_terms(
    logits: Tensor, boxes: Tensor, targets: Targets, num_boxes: Tensor, config: SamDetrConfig
) -> dict[str, Tensor]:
    """Unweighted terms `ce`, `bbox`, `giou`, `(layers,)` each, of `(B, layers, Q, K)` logits and `(…, 4)` boxes."""
    matches = match(logits, boxes, targets, config)
    layer = torch.arange(logits.shape[1], device=logits.device)[:, None]  # (layers, 1)
    found = logits[matches.image, layer, matches.query, targets.labels[matches.image, matches.target]]  # (layers, N)
    class_loss = focal_loss(logits, config.focal_alpha, present=False).sum((0, 2, 3))
    class_loss = class_loss + presence_correction(found, config.focal_alpha).sum(-1)
    distance, overlap = box_losses(
        boxes[matches.image, layer, matches.query], targets.boxes[matches.image, matches.target]
    )  # (layers, N) each; sums over none are 0 and still carry a gradient
    return {
        "ce": class_loss / num_boxes,
        "bbox": distance.sum(-1) / num_boxes,
        "giou": overlap.sum(-1) / num_boxes,
    }


def denoising_terms(
    logits: Tensor, boxes: Tensor, targets: Targets, num_boxes: Tensor, config: SamDetrConfig
) -> dict[str, Tensor]:
    """The same terms of `(B, layers, P·T, …)` denoising queries, each supervised by the object it was made from."""
    groups = config.num_denoising_groups
    valid = targets.valid.repeat(1, groups)[:, None]  # (B, 1, P·T)
    labels = targets.labels.repeat(1, groups)[:, None, :, None].expand(*logits.shape[:3], 1)
    class_loss = focal_loss(logits, config.focal_alpha, present=False).sum(-1)
    class_loss = class_loss + presence_correction(logits.gather(-1, labels).squeeze(-1), config.focal_alpha)
    distance, overlap = box_losses(boxes, targets.boxes.repeat(1, groups, 1)[:, None].expand_as(boxes))
    return {
        name: (loss * valid).sum((0, 2)) / (groups * num_boxes)
        for name, loss in (("ce", class_loss), ("bbox", distance), ("giou", overlap))
    }


def sam_detr_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    config: SamDetrConfig,
    denoising_logits: Tensor | None = None,
    denoising_boxes: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the unweighted terms by name (SPEC: loss, denoising).

    Computed in float32 (float64 where the model is), also under autocast.

    Args:
        logits: `(B, layers, Q, K)`, the ordinary queries alone.
        boxes: `(B, layers, Q, 4)`, center x, center y, width, height, normalised by the valid image.
        targets: the objects of the batch.
        config: costs, coefficients, and whether earlier layers count (`auxiliary_loss`).
        denoising_logits: `(B, layers, P·T, K)`, or None.
        denoising_boxes: `(B, layers, P·T, 4)`, or None.

    Returns:
        The loss, and `loss_ce`, `loss_bbox`, `loss_giou` of the last layer, `…_0`, `…_1`, … of the layers before it,
        and the same names after `dn_` for the denoising queries.
    """
    with without_autocast(logits):
        # a loss that adds half-precision terms of thousands of negatives would lose the small ones
        dtype = torch.promote_types(logits.dtype, torch.float32)
        num_boxes = average_num_boxes(targets)
        parts = {"": matched_terms(logits.to(dtype), boxes.to(dtype), targets, num_boxes, config)}
        if denoising_logits is not None:
            parts["dn_"] = denoising_terms(
                denoising_logits.to(dtype), denoising_boxes.to(dtype), targets, num_boxes, config
            )
        coefficients = {
            "ce": config.class_loss_coefficient,
            "bbox": config.bbox_loss_coefficient,
            "giou": config.giou_loss_coefficient,
        }
        last = logits.shape[1] - 1
        loss, terms = 0.0, {}
        for prefix, part in parts.items():
            for name, by_layer in part.items():
                # without auxiliary losses the earlier layers' parameters still get a gradient, of 0
                weights = 1.0 if config.auxiliary_loss else torch.arange(last + 1, device=by_layer.device) == last
                loss = loss + coefficients[name] * (by_layer * weights).sum()
                terms[f"{prefix}loss_{name}"] = by_layer[last].detach()
                if config.auxiliary_loss:
                    terms |= {f"{prefix}loss_{name}_{layer}": by_layer[layer].detach() for layer in range(last)}
        return loss, terms
