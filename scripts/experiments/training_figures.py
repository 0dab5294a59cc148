"""What training makes of a batch: which query is matched with which object, and denoising queries (DN-DETR)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from torchvision.ops import box_iou
from transformers.image_processing_utils import BaseImageProcessor

from transformers_samdetr.configuration_sam_detr import SamDetrConfig
from transformers_samdetr.geometry import center_to_corners
from transformers_samdetr.loss import DenoisingQueries, Targets, make_denoising_queries, match, prepare_targets
from transformers_samdetr.modeling_sam_detr import SamDetrForObjectDetection
from transformers_samdetr.pretrained_model import SamDetrObjectDetectionOutput
from transformers_samdetr.visualization.drawing import draw_detections
from transformers_samdetr.visualization.explain import MARKS, draw_box, picture_grid, show_picture

OBJECT, PREDICTION = (0, 114, 178), (230, 159, 0)
SHORTEST_LINE = 8
"""Pixels between the centers of a pair from which on they are joined."""
SHORTEST_SIDE = 400
"""Pixels that a picture is enlarged to at least, for its names."""
SHEET_GAP = 6


def batch_pictures(batch: Mapping[str, Tensor], processor: BaseImageProcessor) -> list[Image.Image]:
    """The pictures of a batch, as the model sees them: resized and augmented, without padding.

    Args:
        batch: `pixel_values` `(B, 3, H, W)` and, where there is padding, `pixel_mask` `(B, H, W)`.
        processor: that made it, for its mean and standard deviation.
    """
    pixels = batch["pixel_values"].detach().float().cpu()
    if processor.do_normalize:
        mean, deviation = (torch.tensor(one)[:, None, None] for one in (processor.image_mean, processor.image_std))
        pixels = pixels * deviation + mean
    pixels = (pixels * (255 if processor.do_rescale else 1)).round().clamp(0, 255).byte()
    masks, pictures = batch.get("pixel_mask"), []
    for index, picture in enumerate(pixels):
        if masks is not None:
            picture = picture[:, : int(masks[index, :, 0].sum()), : int(masks[index, 0].sum())]
        pictures.append(Image.fromarray(picture.permute(1, 2, 0).numpy()))
    return pictures


def draw_matches(
    images: Sequence[Image.Image],
    outputs: SamDetrObjectDetectionOutput,
    labels: list[dict[str, Tensor]],
    config: SamDetrConfig,
    columns: int = 4,
) -> Image.Image:
    """Objects in blue, and in orange the boxes that the last layer's matched queries predict, joined to their objects.

    The object's plate has its class, the prediction's the score of this class, the IoU of the two, and in how many
    decoder layers the same query is matched with the object.

    Args:
        images: of the batch, as `batch_pictures` gives them.
        outputs: of the model on the batch.
        labels: for each picture, as the image processor makes them: `class_labels` `(T,)` and `boxes` `(T, 4)`, center
            x, center y, width, height, normalised.
        config: of the model.
        columns: pictures in a row.

    Raises:
        ValueError: the labels do not fit; the message names the picture.
    """
    targets = prepare_targets(labels, len(images), config.num_labels, outputs.logits.device)
    logits, boxes = outputs.intermediate_logits, outputs.intermediate_boxes
    if logits is None:
        logits, boxes = outputs.logits[:, None], outputs.pred_boxes[:, None]
    logits, boxes = logits.float(), boxes.float()  # (B, layers, Q, K), (B, layers, Q, 4)
    matches = match(logits, boxes, targets, config)
    drawn = []
    for index, image in enumerate(images):
        own = matches.image == index
        objects, queries = matches.target[-1, own], matches.query[-1, own]
        classes = targets.labels[index, objects]
        scores = logits[index, -1, queries, classes].sigmoid().tolist()
        same = (matches.query[:, own, None] == queries) & (matches.target[:, own, None] == objects)  # (layers, T, T)
        stable = same.any(1).sum(0).tolist()
        enlarged = max(1.0, SHORTEST_SIDE / min(image.size))
        image = image.resize((round(enlarged * image.width), round(enlarged * image.height)), Image.Resampling.BICUBIC)
        scale = torch.tensor([*image.size] * 2)
        objects, predictions = (
            center_to_corners(pair.detach().cpu()) * scale
            for pair in (targets.boxes[index, objects], boxes[index, -1, queries])
        )
        overlaps = box_iou(objects, predictions).diagonal().tolist() if len(objects) else []
        lines = ImageDraw.Draw(image)
        for pair in zip(objects.tolist(), predictions.tolist(), strict=True):  # their centers are joined
            ends = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in pair]
            if math.dist(*ends) > SHORTEST_LINE:
                lines.line(ends, fill=(0, 0, 0), width=5)
                lines.line(ends, fill=PREDICTION, width=2)
        # the space, which is not drawn, tells the name of a class from an equal text of a prediction
        names = [config.id2label[label] + " " for label in classes.tolist()]
        texts = [
            f"{score:.2f}, IoU {overlap:.2f}, {count}/{logits.shape[1]} layers"
            for score, overlap, count in zip(scores, overlaps, stable, strict=True)
        ]
        colors = dict.fromkeys(names, OBJECT) | dict.fromkeys(texts, PREDICTION)
        drawn.append(draw_detections(image, np.concatenate([objects, predictions]), names + texts, colors=colors))
    return contact_sheet(drawn, columns=columns, width=max(image.width for image in drawn))


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, width: int = 320) -> Image.Image:
    """Pictures row by row, in cells of the first one's shape, `width` pixels wide, each as large as its cell allows.

    Raises:
        ValueError: there is no picture.

    >>> contact_sheet([Image.new("RGB", (64, 32))] * 5, columns=4, width=100).size
    (418, 106)
    """
    if not pictures:
        raise ValueError("There are no pictures to put on a sheet.")
    columns = min(columns, len(pictures))
    cell = (width, max(1, round(width * pictures[0].height / pictures[0].width)))
    step_x, step_y = cell[0] + SHEET_GAP, cell[1] + SHEET_GAP
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step_x - SHEET_GAP, rows * step_y - SHEET_GAP), "white")
    for index, picture in enumerate(pictures):
        fitted = ImageOps.pad(picture, cell, Image.Resampling.LANCZOS, color="white")
        sheet.paste(fitted, (index % columns * step_x, index // columns * step_y))
    return sheet


@dataclass(frozen=True)
class Denoised:
    """Noised objects, group by group, and what the last decoder layer predicts from them."""

    targets: Targets  # the objects of the batch, at most T in a picture
    noised: DenoisingQueries  # made of them, in P groups
    boxes: Tensor  # (B, P·T, 4), center x, center y, width, height, normalised, as predicted
    labels: Tensor  # (B, P·T), the class with the highest score


@torch.no_grad()
def denoise(model: SamDetrForObjectDetection, batch: Mapping[str, object]) -> Denoised:
    """Runs a model on a batch with denoising queries, as training does, with noise from PyTorch's global generator.

    Args:
        model: with `num_denoising_groups`, in any mode.
        batch: `pixel_values`, optionally `pixel_mask`, and `labels`, as the image processor makes them.

    Raises:
        ValueError: the model has no denoising queries, or the labels do not fit.
    """
    config = model.config
    if not config.num_denoising_groups:
        raise ValueError("This model has no denoising queries: num_denoising_groups=0.")
    pixels = batch["pixel_values"].to(model.device)
    targets = prepare_targets(batch["labels"], len(pixels), config.num_labels, model.device)
    noised = make_denoising_queries(targets, config)
    outputs = model.model(pixels, batch.get("pixel_mask"), denoising_queries=noised)
    count = noised.labels.shape[1]
    logits = model.class_heads[-1](outputs.intermediate_hidden_states[:, -1, :count])
    return Denoised(targets, noised, outputs.intermediate_boxes[:, -1, :count], logits.argmax(-1))


def denoising_figure(images: Sequence[Image.Image], denoised: Denoised) -> Figure:
    """For each picture its noised objects on the left, and on the right what the last layer restores of them.

    An object's noised copies have its colour, the object itself is the thick box. A dashed box has the wrong class: on
    the left because its label was flipped, on the right because the model predicts it.

    Args:
        images: of the batch, as `batch_pictures` gives them; those without objects are left out.
        denoised: what `denoise` returned.

    Raises:
        ValueError: no picture has an object.
    """
    shown = [index for index, count in enumerate(denoised.targets.counts) if count]
    if not shown:
        raise ValueError("No picture of the batch has an object to make denoising queries of.")
    figure, noised = picture_grid(images[shown[0]], len(shown), 2), denoised.noised
    for panels, index in zip(figure.subplots(len(shown), 2, squeeze=False), shown, strict=True):
        count, scale = denoised.targets.counts[index], torch.tensor([*images[index].size] * 2)
        objects = center_to_corners(denoised.targets.boxes[index, :count].cpu()) * scale  # (T, 4)
        classes = denoised.targets.labels[index, :count].cpu()
        for axes, boxes, labels, title in (
            (panels[0], noised.box_logits.sigmoid(), noised.labels, "noised"),
            (panels[1], denoised.boxes, denoised.labels, "restored"),
        ):
            copies = center_to_corners(boxes[index].float().cpu()) * scale
            copies = copies.unflatten(0, (noised.num_groups, -1))[:, :count]  # (P, T, 4)
            right = labels[index].cpu().unflatten(0, (noised.num_groups, -1))[:, :count] == classes  # (P, T)
            overlap = np.mean([box_iou(group, objects).diagonal().mean() for group in copies])
            title = f"{title}: IoU {overlap:.2f}, class right {right.float().mean():.0%}"
            show_picture(axes, images[index], title=title)
            for number, (_, color) in zip(range(count), itertools.cycle(MARKS)):
                for box, is_right in zip(copies[:, number].tolist(), right[:, number].tolist(), strict=True):
                    draw_box(axes, box, color, 0.9, "-" if is_right else (0, (2, 2)))
                draw_box(axes, objects[number].tolist(), color, 2.4)
    return figure
