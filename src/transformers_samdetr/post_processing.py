"""Outputs of the model to detections, the authors' way, with two options of ours."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.image_transforms import center_to_corners_format


def detections_from_outputs(
    logits: Tensor,
    pred_boxes: Tensor,
    threshold: float = 0.5,
    target_sizes: Tensor | Sequence[Sequence[int]] | None = None,
    top_k: int = 100,
    one_label_per_query: bool = False,
    nms_threshold: float | None = None,
) -> list[dict[str, Tensor]]:
    """The `top_k` highest of the `Q * K` sigmoid scores of each image, then those above `threshold`.

    A query may so be detected under several labels, as in Deformable DETR and in the authors' evaluation.

    Args:
        logits: `(B, Q, K)`, of any floating type; scores and boxes are computed in float32.
        pred_boxes: `(B, Q, 4)`, center x, center y, width, height, normalised by the valid image.
        threshold: detections have a higher score than this. The authors evaluate at 0.
        target_sizes: `(B, 2)`, height and width of each picture, in pixels, or a list of pairs.
        top_k: at most so many detections per image; more than there are gives all.
        one_label_per_query: only the best label of each query takes part.
        nms_threshold: IoU above which the lower of two boxes with the same label is dropped; no suppression by default,
            since the model is trained to predict each object once.

    Returns:
        For each image `scores` `(D,)` float32 in descending order, `labels` `(D,)` int64 and `boxes` `(D, 4)` float32,
        (x1, y1, x2, y2), in pixels of `target_sizes`, or normalised without them. Boxes are not clipped to the picture.

    Raises:
        ValueError: `target_sizes` is not one height and width per image, or `top_k` is below 1.
    """
    if target_sizes is not None:
        target_sizes = _target_sizes(target_sizes, batch_size=len(logits))
    scores, labels, boxes = best_detections(logits, pred_boxes, top_k, target_sizes, one_label_per_query)

    results = []
    for image_scores, image_labels, image_boxes in zip(scores, labels, boxes, strict=True):
        keep = image_scores > threshold
        detections = {"scores": image_scores[keep], "labels": image_labels[keep], "boxes": image_boxes[keep]}
        if nms_threshold is not None:
            detections = _suppress(detections, nms_threshold)
        results.append(detections)
    return results


def best_detections(
    logits: Tensor,
    pred_boxes: Tensor,
    top_k: int,
    target_sizes: Tensor | None = None,
    one_label_per_query: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `detections_from_outputs` chooses from by threshold, as tensors, so that it can be part of a program.

    Args:
        logits, pred_boxes, top_k, one_label_per_query: as in `detections_from_outputs`.
        target_sizes: `(B, 2)`, height and width of each picture, in pixels.

    Returns:
        Scores `(B, D)` in descending order, labels `(B, D)` and boxes `(B, D, 4)`; D is `top_k` or all there are.

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


def _target_sizes(target_sizes: Tensor | Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """`(B, 2)` heights and widths."""
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
    raise ValueError(
        f"target_sizes has {shape} for a batch of {batch_size} images: give one (height, width) per image, such as "
        "[(480, 640)]."
    )


def _suppress(detections: dict[str, Tensor], iou_threshold: float) -> dict[str, Tensor]:
    """Non-maximum suppression among detections of the same label; the order by score stays."""
    from torchvision.ops import batched_nms  # here, so that plain post-processing needs torch alone

    keep = batched_nms(detections["boxes"], detections["scores"], detections["labels"], iou_threshold)
    return {name: values[keep] for name, values in detections.items()}
