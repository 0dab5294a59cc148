"""What training minimises (docs/model.md): focal + L1 + GIoU of every layer, matched by the Hungarian algorithm, and
the same terms of denoising queries, noised objects that the decoder learns to restore (DN-DETR)."""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import is_scipy_available

from .configuration_sam_detr import SamDetrConfig
from .geometry import center_to_corners, generalized_iou, inverse_sigmoid
from .operations import without_autocast

if is_scipy_available():  # inference needs no matching
    from scipy.optimize import linear_sum_assignment

TERMS = ("ce", "bbox", "giou")
BOX_TOLERANCE = 1e-5
"""How far outside [0, 1] rounding may leave a coordinate."""


@dataclass
class Targets:
    """The objects of a batch, padded to the largest number T of one image."""

    labels: Tensor  # (B, T) int64, 0 in padding
    boxes: Tensor  # (B, T, 4) float32, center x, center y, width, height, normalised by the valid image; 0 in padding
    counts: list[int]  # number of objects of each image, on the host
    names: list[str]  # what error messages and warnings call each image

    @property
    def valid(self) -> Tensor:
        """`(B, T)`, True where there is an object. Made on the device from nothing but its shape and small fills."""
        columns = torch.arange(self.labels.shape[1], device=self.labels.device)
        rows = [columns < count for count in self.counts]
        return torch.stack(rows) if rows else columns.new_zeros(0, 0, dtype=torch.bool)


def prepare_targets(labels: list[dict], batch_size: int, num_labels: int, device: torch.device) -> Targets:
    """Checks the labels of a batch and moves them to the device.

    Args:
        labels: for each image `class_labels` `(T,)` int64 and `boxes` `(T, 4)`, center x, center y, width, height,
            normalised; other keys are ignored, but `image_id` names the image in errors.
        batch_size: number of images.
        num_labels: number of classes.

    Raises:
        ValueError: something does not fit; the message names the image, the value and the remedy.
    """
    if not isinstance(labels, (list, tuple)) or not all(hasattr(target, "keys") for target in labels):
        raise ValueError(f"labels must be a list with one dict for each image, not {type(labels).__name__}.")
    if len(labels) != batch_size:
        raise ValueError(f"There are {len(labels)} labels for {batch_size} images; give one dict for each image.")
    names = []
    for index, target in enumerate(labels):
        image_id = target.get("image_id")
        if isinstance(image_id, Tensor):
            image_id = image_id.flatten().tolist()
            image_id = image_id[0] if len(image_id) == 1 else image_id
        name = f"image {index} of the batch" + (f" (image_id {image_id})" if image_id is not None else "")
        names.append(name)
        missing = [key for key in ("class_labels", "boxes") if not isinstance(target.get(key), Tensor)]
        if missing:
            raise ValueError(f"The labels of {name} lack the tensor {missing[0]!r}; they hold {sorted(target)}.")
        # .cpu() returns the same tensor where the labels are on the host, as a collator leaves them
        classes, boxes = target["class_labels"].detach().cpu(), target["boxes"].detach().cpu()
        if classes.ndim != 1 or boxes.shape != (len(classes), 4):
            raise ValueError(
                f"The labels of {name} do not fit together: class_labels has the shape {tuple(classes.shape)} and "
                f"boxes {tuple(boxes.shape)}; they must be (T,) and (T, 4)."
            )
        if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
            raise ValueError(f"class_labels of {name} have the dtype {classes.dtype}; give integer class indices.")
        wrong = (classes < 0) | (classes >= num_labels)
        if wrong.any():
            raise ValueError(
                f"{name} has the label {classes[wrong][0].item()}, outside the {num_labels} classes of the model (0 "
                f"to {num_labels - 1}). Map category ids to labels first, or build the model with more classes "
                "(num_labels)."
            )
        fits = ((boxes >= -BOX_TOLERANCE) & (boxes <= 1 + BOX_TOLERANCE)).all(-1)  # NaN fails both comparisons
        if not fits.all():
            raise ValueError(
                f"{name} has the box {boxes[~fits][0].tolist()}, which is not finite or not within [0, 1]. Boxes are "
                "(center x, center y, width, height), normalised by the image; the image processor makes them from "
                "COCO's."
            )
    counts = [len(target["class_labels"]) for target in labels]
    most = max(counts, default=0)
    padded_labels = [nn.functional.pad(t["class_labels"].long(), (0, most - len(t["boxes"]))) for t in labels]
    padded_boxes = [nn.functional.pad(t["boxes"].float(), (0, 0, 0, most - len(t["boxes"]))) for t in labels]
    return Targets(
        torch.stack(padded_labels).to(device, non_blocking=True),
        torch.stack(padded_boxes).to(device, non_blocking=True),
        counts,
        names,
    )


class Matches(NamedTuple):
    """The N matched pairs of every layer; an image has as many in each layer."""

    image: Tensor  # (N,), index of the image
    query: Tensor  # (layers, N), index of the query in its image
    target: Tensor  # (layers, N), index of the object in its image


@torch.no_grad()
def matching_cost(logits: Tensor, boxes: Tensor, targets: Targets, config: SamDetrConfig) -> Tensor:
    """Cost of every query for every object of its own image, `(B, layers, Q, T)`, arguments as in `match`.

    The class cost is the positive minus the negative term of the focal loss. Columns that pad an image mean nothing.
    """
    layers, queries = logits.shape[1:3]
    columns = targets.labels[:, None, None].expand(-1, layers, queries, -1)
    # the classes of the image's own objects first: nothing is computed for the others
    probability, alpha, eps = logits.gather(-1, columns).sigmoid(), config.focal_alpha, 1e-8
    positive = alpha * (1 - probability) ** 2.0 * -(probability + eps).log()
    negative = (1 - alpha) * probability**2.0 * -(1 - probability + eps).log()
    cost = config.class_cost * (positive - negative)
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


def focal_loss(
    logits: Tensor, alpha: float, present: bool, gamma: float = 2.0, class_weights: Tensor | None = None
) -> Tensor:
    """Sigmoid focal loss (RetinaNet, equation 5) of each element, not reduced.

    Args:
        logits: any shape.
        alpha: weight of classes that are there, as those of all these logits if `present`; else 1 - alpha counts.
        class_weights: of each logit's class, to multiply its loss by, a shape that broadcasts; None for 1.
    """
    logits, weight = (-logits, alpha) if present else (logits, 1 - alpha)
    loss = weight * logits.sigmoid() ** gamma * nn.functional.softplus(logits)
    return loss if class_weights is None else loss * class_weights


def presence_correction(logits: Tensor, alpha: float, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What to add to the focal loss of absent classes for each of these logits, whose classes `labels` are there.

    Almost all logits belong to absent classes: dense one-hot targets would take a dozen passes more over all of them.
    """
    correction = focal_loss(logits, alpha, present=True) - focal_loss(logits, alpha, present=False)
    return correction if class_weights is None else correction * class_weights[labels]


def loss_coefficients(config: SamDetrConfig) -> dict[str, float]:
    """The coefficient of each of `TERMS`."""
    coefficients = config.class_loss_coefficient, config.bbox_loss_coefficient, config.giou_loss_coefficient
    return dict(zip(TERMS, coefficients, strict=True))


def class_weights_of(config: SamDetrConfig, logits: Tensor) -> Tensor | None:
    """`(K,)` weights of the classes in the loss, of the logits' type and device; None where all count alike."""
    return None if config.class_weights is None else logits.new_tensor(config.class_weights)


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
    labels, weights = targets.labels[matches.image, matches.target], class_weights_of(config, logits)
    found = logits[matches.image, layer, matches.query, labels]  # (layers, N)
    class_loss = focal_loss(logits, config.focal_alpha, present=False, class_weights=weights).sum((0, 2, 3))
    class_loss = class_loss + presence_correction(found, config.focal_alpha, labels, weights).sum(-1)
    objects = targets.boxes[matches.image, matches.target]
    # (layers, N) each; sums over none are 0 and still carry a gradient
    distance, overlap = box_losses(boxes[matches.image, layer, matches.query], objects)
    return {name: x / num_boxes for name, x in zip(TERMS, (class_loss, distance.sum(-1), overlap.sum(-1)), strict=True)}


def denoising_terms(
    logits: Tensor, boxes: Tensor, targets: Targets, num_boxes: Tensor, config: SamDetrConfig
) -> dict[str, Tensor]:
    """The same terms of `(B, layers, P·T, …)` denoising queries, each supervised by the object it was made from."""
    groups = config.num_denoising_groups
    valid = targets.valid.repeat(1, groups)[:, None]  # (B, 1, P·T)
    labels = targets.labels.repeat(1, groups)[:, None, :, None].expand(*logits.shape[:3], 1)
    weights = class_weights_of(config, logits)
    class_loss = focal_loss(logits, config.focal_alpha, present=False, class_weights=weights).sum(-1)
    found = logits.gather(-1, labels).squeeze(-1)
    class_loss = class_loss + presence_correction(found, config.focal_alpha, labels.squeeze(-1), weights)
    distance, overlap = box_losses(boxes, targets.boxes.repeat(1, groups, 1)[:, None].expand_as(boxes))
    losses = zip(TERMS, (class_loss, distance, overlap), strict=True)
    return {name: (loss * valid).sum((0, 2)) / (groups * num_boxes) for name, loss in losses}


def sam_detr_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    config: SamDetrConfig,
    denoising_logits: Tensor | None = None,
    denoising_boxes: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the unweighted terms by name (docs/model.md).

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
        coefficients, last = loss_coefficients(config), logits.shape[1] - 1
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


@dataclass
class DenoisingQueries:
    """P groups of T noised objects, which stand before the ordinary queries."""

    labels: Tensor  # (B, P·T) int64, noised; group by group
    box_logits: Tensor  # (B, P·T, 4) float32, logits of the noised boxes (center x, center y, width, height)
    allowed: Tensor  # (B, 1, P·T + Q, P·T + Q), True where a query may attend another one
    num_groups: int  # P


def add_noise(labels: Tensor, boxes: Tensor, config: SamDetrConfig) -> tuple[Tensor, Tensor]:
    """`(…)` labels, some flipped to a uniform random class, and `(…, 4)` boxes, shifted, scaled, clamped to [0, 1]."""
    flip = torch.rand(labels.shape, device=labels.device) < config.denoising_label_noise
    noised_labels = torch.where(flip, torch.randint_like(labels, config.num_labels), labels)
    center, size = boxes.split(2, dim=-1)
    noise = config.denoising_box_noise * (2 * torch.rand_like(boxes) - 1)
    noised = torch.cat([center + noise[..., :2] * size / 2, size + noise[..., 2:] * size], dim=-1)
    return noised_labels, noised.clamp(0, 1)


def attention_allowed(valid: Tensor, num_groups: int, num_queries: int) -> Tensor:
    """Who may attend whom: ordinary queries see only each other, a noised one its own group and the ordinary ones.

    Slots that only pad an image, False in the `(B, T)` `valid`, are hidden from all but themselves.

    Returns:
        `(B, 1, P·T + Q, P·T + Q)` bool, rows attend columns.
    """
    (batch_size, num_targets), device = valid.shape, valid.device
    num_noised = num_groups * num_targets
    ordinary = torch.full((num_queries,), num_groups, device=device)
    group = torch.cat([torch.arange(num_groups, device=device).repeat_interleave(num_targets), ordinary])
    is_ordinary = group == num_groups
    allowed = (group[:, None] == group[None]) | is_ordinary[None]
    seen = torch.cat([valid.repeat(1, num_groups), valid.new_ones(batch_size, num_queries)], dim=1)
    itself = torch.eye(num_noised + num_queries, dtype=torch.bool, device=device)
    return ((allowed & seen[:, None]) | itself)[:, None]


def make_denoising_queries(targets: Targets, config: SamDetrConfig) -> DenoisingQueries:
    """Noised queries for a batch, by random numbers of PyTorch's default generator of the targets' device."""
    groups = config.num_denoising_groups
    labels, boxes = add_noise(targets.labels.repeat(1, groups), targets.boxes.repeat(1, groups, 1), config)
    allowed = attention_allowed(targets.valid, groups, config.num_queries)
    return DenoisingQueries(labels, inverse_sigmoid(boxes), allowed, groups)
