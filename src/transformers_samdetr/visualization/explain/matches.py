"""Which query learns which object: the Hungarian matches of a training batch."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from ...box_ops import center_to_corners
from ...configuration_sam_detr import SamDetrConfig
from ...matcher import match
from ...outputs import SamDetrObjectDetectionOutput
from ...targets import prepare_targets
from ..contact_sheet import contact_sheet
from ..detections import draw_detections

OBJECT, PREDICTION = (0, 114, 178), (230, 159, 0)
SHORTEST_LINE = 8
"""Pixels between the centers of a pair from which on they are joined."""
SHORTEST_SIDE = 400
"""Pixels that a picture is enlarged to at least, for its names."""


def draw_matches(
    images: Sequence[Image.Image],
    outputs: SamDetrObjectDetectionOutput,
    labels: list[dict[str, torch.Tensor]],
    config: SamDetrConfig,
    columns: int = 4,
) -> Image.Image:
    """Objects in blue, and in orange the boxes that the last layer's matched queries predict, joined to their objects.

    On the plate of an object stands its class; on that of its query the score of this class, the IoU of the two, and
    for how many of the decoder layers the same query is matched with it.

    Args:
        images: of the batch, as `batch_pictures` gives them.
        outputs: of the model on the batch.
        labels: of each picture, as the image processor makes them: `class_labels` `(T,)` and `boxes` `(T, 4)`, center
            x, center y, width, height, normalised.
        config: of the model.
        columns: pictures of a row.

    Raises:
        ValueError: the labels do not fit; the message names the picture.
    """
    targets = prepare_targets(labels, len(images), config.num_labels, outputs.logits.device)
    layers = [*(outputs.auxiliary_outputs or []), {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    logits = torch.stack([layer["logits"] for layer in layers], 1).float()
    boxes = torch.stack([layer["pred_boxes"] for layer in layers], 1).float()
    matches = match(logits, boxes, targets, config)
    drawn = []
    for index, image in enumerate(images):
        own = matches.image == index
        objects, queries = matches.target[-1, own], matches.query[-1, own]
        classes = targets.labels[index, objects]
        same = torch.stack(
            [
                _queries_of(matches.query[layer, own], matches.target[layer, own], objects) == queries
                for layer in range(len(layers))
            ]
        ).sum(0)
        scores = logits[index, -1, queries, classes].sigmoid()
        drawn.append(
            _draw(
                image,
                targets.boxes[index, objects],
                boxes[index, -1, queries],
                classes,
                scores,
                same,
                len(layers),
                config.id2label,
            )
        )
    return contact_sheet(drawn, columns=columns, width=max(image.width for image in drawn))


def _queries_of(queries: torch.Tensor, objects: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The query of each wanted object."""
    return queries[(objects[None] == wanted[:, None]).int().argmax(1)] if len(wanted) else queries


def _draw(image: Image.Image, objects, predictions, classes, scores, same, layers: int, names: dict[int, str]):
    """One picture with its pairs."""
    enlarged = max(1.0, SHORTEST_SIDE / min(image.size))
    image = image.resize((round(enlarged * image.width), round(enlarged * image.height)), Image.Resampling.BICUBIC)
    scale = torch.tensor([*image.size] * 2)
    objects, predictions = (center_to_corners(boxes.detach().cpu()) * scale for boxes in (objects, predictions))
    overlaps = box_iou(objects, predictions).diagonal() if len(objects) else objects.new_zeros(0)
    texts = [names[label] for label in classes.tolist()]
    about = [
        f"{score:.2f}, IoU {overlap:.2f}, {count}/{layers} layers"
        for score, overlap, count in zip(scores.tolist(), overlaps.tolist(), same.tolist(), strict=True)
    ]
    # a class may be called as a prediction's text is: a space at its end, which is not drawn, keeps the colours apart
    texts = [text + " " for text in texts]
    colors = dict.fromkeys(texts, OBJECT) | dict.fromkeys(about, PREDICTION)
    joined = image.copy()
    pen = ImageDraw.Draw(joined)
    for box, other in zip(objects.tolist(), predictions.tolist(), strict=True):
        ends = [((one[0] + one[2]) / 2, (one[1] + one[3]) / 2) for one in (box, other)]
        if math.dist(*ends) > SHORTEST_LINE:
            pen.line(ends, fill=(0, 0, 0), width=5)
            pen.line(ends, fill=PREDICTION, width=2)
    return draw_detections(joined, np.concatenate([objects, predictions]), texts + about, colors=colors)
