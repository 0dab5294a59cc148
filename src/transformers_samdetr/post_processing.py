"""Outputs of the model to detections, the authors' way."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.image_transforms import center_to_corners_format


def best_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    top_k: int,
    target_sizes: Tensor | None = None,
    one_label_per_query: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `top_k` highest of the `Q * K` sigmoid scores of each image, as tensors: it can be part of a program.

    Args:
        logits: `(B, Q, K)`, of any floating type; scores and boxes are computed in float32.
        pred_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
        top_k, target_sizes, one_label_per_query: as of `SamDetrImageProcessor.post_process_object_detection`.

    Returns:
        Scores `(B, D)`, descending, labels `(B, D)` and boxes `(B, D, 4)`, (x1, y1, x2, y2), in pixels of
        `target_sizes` or normalised without them; D is `top_k` or all there are.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1.")
    num_labels = logits.shape[-1]
    probabilities = logits.float().sigmoid()  # (B, Q, K)
    if one_label_per_query:
        scores, labels = probabilities.max(-1)  # (B, Q) each
        scores, queries = scores.topk(min(top_k, scores.shape[1]), dim=1)  # (B, D)
        labels = labels.gather(1, queries)
    else:
        flat = probabilities.flatten(1)  # (B, Q*K)
        scores, indices = flat.topk(min(top_k, flat.shape[1]), dim=1)  # (B, D)
        queries, labels = indices // num_labels, indices % num_labels

    boxes = center_to_corners_format(pred_boxes.float())
    boxes = boxes.gather(1, queries[..., None].expand(-1, -1, 4))  # (B, D, 4)
    if target_sizes is not None:
        boxes = boxes * target_sizes.to(boxes).flip(-1).repeat(1, 2)[:, None]  # (B, 1, 4): W H W H
    return scores, labels, boxes


def check_target_sizes(target_sizes: Tensor | Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """`(B, 2)` heights and widths, or a ValueError."""
    shape = "rows of different lengths"
    if not isinstance(target_sizes, Tensor):
        try:
            target_sizes = torch.tensor([row.tolist() if hasattr(row, "tolist") else row for row in target_sizes])
        except (TypeError, ValueError):
            target_sizes = None
    if target_sizes is not None:
        shape = f"shape {tuple(target_sizes.shape)}"
        if target_sizes.shape == (batch_size, 2):
            return target_sizes
    remedy = f"give one (height, width) for each of {batch_size} images, such as [(480, 640)]"
    raise ValueError(f"target_sizes has {shape}: {remedy}.")
