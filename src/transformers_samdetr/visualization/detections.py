"""Boxes, names and scores on a picture."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures import picture_to_array
from .label_plates import LabelPlates

# Okabe and Ito (2008), distinct with every kind of colour vision; without black, which pictures have enough of
PALETTE = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
LINE_WIDTH = 0.004
FONT_SIZE = 0.024
"""Both of the geometric mean of the picture's width and height."""
SMALLEST_FONT = 9
DARK_EDGE, LIGHT_EDGE, EDGE_ALPHA = (0, 0, 0), (255, 255, 255), 200
"""Beside every box line, so that no colour is lost on a ground of its own brightness."""


def class_colors(names: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """One RGB colour a class: the palette's seven first, then lighter and darker kinds of them.

    >>> class_colors(["cat", "dog"])
    {'cat': (86, 180, 233), 'dog': (230, 159, 0)}
    """
    colors = {}
    for index, name in enumerate(dict.fromkeys(names)):
        tier, hue = divmod(index, len(PALETTE))
        # 0, then halves, quarters and so on towards black or white: each tier is far from those before
        amount = (_bit_reversed(tier) + 0.5) % 1 - 0.5
        target = 255 if amount > 0 else 0
        colors[name] = tuple(round(value + abs(amount) * (target - value)) for value in PALETTE[hue])
    return colors


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray | Tensor | Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: np.ndarray | Tensor | Sequence[float] | None = None,
    colors: dict[str, tuple[int, int, int]] | None = None,
) -> Image.Image:
    """A copy of the picture with a box, the name and the score of each detection.

    A plate with a name never covers another, and stays in the picture; where nothing is free, the box has no name.

    Args:
        image: a picture of any mode; its EXIF orientation is applied.
        boxes: `(T, 4)`, x1, y1, x2, y2 in pixels of the upright picture; what is outside of it is not drawn.
        labels: `(T,)` names.
        scores: `(T,)`, written behind the names; the highest have the first choice of places.
        colors: RGB by name, as `class_colors` gives them for all classes, so that a class has the same colour in each
            picture. Otherwise names have colours in the order in which they come.

    Returns:
        An RGB picture of the size of the upright `image`.

    Raises:
        ValueError: boxes, labels and scores are not equally many, a box is not finite or has a negative size, or
            `colors` lacks a name.
    """
    boxes, scores = _checked(boxes, labels, scores)
    colors = class_colors(labels) if colors is None else colors
    if unknown := sorted(set(labels) - colors.keys()):
        raise ValueError(f"colors has no {unknown}: make it with class_colors of all names.")
    image = Image.fromarray(picture_to_array(image))
    scale = math.sqrt(image.width * image.height)
    line = max(1, round(LINE_WIDTH * scale))
    font = ImageFont.load_default(max(SMALLEST_FONT, round(FONT_SIZE * scale)))
    draw = ImageDraw.Draw(image, "RGBA")  # so that translucent colours blend

    corners = [_inside(box, image.size) for box in boxes]
    visible = [index for index, box in enumerate(corners) if box is not None]
    for index in sorted(visible, key=lambda index: -_area(corners[index])):  # the small on top of the large
        _draw_box(draw, corners[index], colors[labels[index]], line)

    places = LabelPlates(*image.size)
    plates = []
    for index in visible if scores is None else sorted(visible, key=lambda index: -scores[index]):
        text = _fitting_text(labels[index], None if scores is None else scores[index], font, image.width)
        plate = places.place(corners[index], _plate_size(text, font)) if text else None
        if plate is not None:
            plates.append((plate, text, colors[labels[index]]))
            _draw_leader(draw, plate, corners[index], colors[labels[index]], max(1, line // 2))
    for plate, text, color in plates:
        _draw_plate(draw, plate, text, color, font)
    return image


def _checked(boxes, labels: Sequence[str], scores) -> tuple[np.ndarray, np.ndarray | None]:
    """`(T, 4)` boxes and `(T,)` scores as arrays."""
    boxes, scores = (
        values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values for values in (boxes, scores)
    )
    boxes = np.asarray(boxes, dtype=np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    scores = None if scores is None else np.asarray(scores, dtype=np.float64)
    if boxes.shape != (len(labels), 4):
        raise ValueError(f"{len(labels)} labels need boxes of shape ({len(labels)}, 4), not {boxes.shape}.")
    if scores is not None and scores.shape != (len(labels),):
        raise ValueError(f"{len(labels)} labels need scores of shape ({len(labels)},), not {scores.shape}.")
    for box, label in zip(boxes, labels, strict=True):
        if not np.isfinite(box).all() or (box[2:] < box[:2]).any():
            raise ValueError(f"Box {box.tolist()} of {label!r} must be finite x1 <= x2 and y1 <= y2, in pixels.")
    return boxes, scores


def _inside(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Whole pixels of the box in the picture, half open, or None where there are none."""
    width, height = size
    x1, y1, x2, y2 = box
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return None
    x1, y1 = max(0, math.floor(x1)), max(0, math.floor(y1))
    return x1, y1, min(width, max(math.ceil(x2), x1 + 1)), min(height, max(math.ceil(y2), y1 + 1))


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _draw_box(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], color, line: int) -> None:
    """A coloured line between a thin dark one outside and a thin light one inside: one of them shows on any ground."""
    x1, y1, x2, y2 = box
    edge = max(1, line // 3)
    draw.rectangle((x1 - edge, y1 - edge, x2 - 1 + edge, y2 - 1 + edge), outline=(*DARK_EDGE, EDGE_ALPHA), width=edge)
    inside = (x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line)
    if inside[0] <= inside[2] and inside[1] <= inside[3]:
        draw.rectangle(inside, outline=(*LIGHT_EDGE, EDGE_ALPHA), width=edge)
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=line)


def _draw_leader(draw: ImageDraw.ImageDraw, plate, box, color, line: int) -> None:
    """A line from a plate that is away from its box to the box."""
    distant = plate[2] < box[0] or plate[0] > box[2] or plate[3] < box[1] or plate[1] > box[3]
    if distant:
        center = ((plate[0] + plate[2]) // 2, (plate[1] + plate[3]) // 2)
        nearest = (min(max(center[0], box[0]), box[2] - 1), min(max(center[1], box[1]), box[3] - 1))
        draw.line((center, nearest), fill=color, width=line)


def _draw_plate(draw: ImageDraw.ImageDraw, plate, text: str, color, font) -> None:
    x1, y1, x2, y2 = plate
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
    draw.text((x1 + _padding(font), (y1 + y2) / 2), text, fill=_readable_on(color), font=font, anchor="lm")


def _padding(font) -> int:
    return max(1, round(font.size / 4))


def _plate_size(text: str, font) -> tuple[int, int]:
    return math.ceil(font.getlength(text)) + 2 * _padding(font), math.ceil(1.3 * font.size)


def _fitting_text(label: str, score: float | None, font, width: int) -> str:
    """Name and score, the name shortened where the picture is too narrow for it; empty where nothing fits."""
    name = " ".join(label.split())
    ending = "" if score is None else f": {score:.2f}"  # a colon, for names may be digits
    shortened = [name[:length].rstrip() + "…" + ending for length in range(len(name) - 1, 0, -1)]
    texts = [name + ending, *shortened, name[:1]]
    return next((text for text in texts if text and _plate_size(text, font)[0] <= width), "")


def _readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast by WCAG 2."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _bit_reversed(number: int) -> float:
    """Van der Corput's sequence 0, 1/2, 1/4, 3/4, 1/8, ..."""
    return sum(0.5 ** (place + 1) for place, bit in enumerate(reversed(bin(number)[2:])) if bit == "1")


__all__ = ["class_colors", "draw_detections"]
