"""Boxes, class names and scores on a picture."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..pictures import picture_to_array
from .fonts import font_path, load_font, shorten

# Okabe and Ito (2008), distinct with every kind of colour vision; without black, which pictures have enough of
PALETTE = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
LINE_WIDTH, FONT_SIZE, SMALLEST_FONT = 0.004, 0.024, 9
"""The first two as a share of the geometric mean of the picture's width and height; the last in pixels."""
LONGEST_NAME = 32
"""Characters of a class name on a plate."""
PLATE_SHARE, ALWAYS_NAMED, PLATE_GAP = 0.15, 3, 1
"""Names cover at most this share of the picture, except those of the first few boxes, and are so many pixels apart."""
DARK_EDGE, LIGHT_EDGE = (0, 0, 0, 200), (255, 255, 255, 200)
"""Beside every box line, so that it shows on any background."""

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]

_numbers: dict[str, int] = {}
"""Numbers of the names that no font can draw, for calls of `draw_detections` without `colors`."""


def class_colors(names: Iterable[str]) -> dict[str, Color]:
    """An RGB colour for each class: the seven of the palette first, then lighter and darker variants of them.

    >>> class_colors(["cat", "dog"])
    {'cat': (86, 180, 233), 'dog': (230, 159, 0)}
    """
    colors = {}
    for index, name in enumerate(dict.fromkeys(names)):
        tier, hue = divmod(index, len(PALETTE))
        # van der Corput's sequence 0, 1/2, 1/4, 3/4, …, as steps towards white or black: tiers are far from each other
        fraction = sum(0.5 ** (place + 1) for place, bit in enumerate(f"{tier:b}"[::-1]) if bit == "1")
        amount = (fraction + 0.5) % 1 - 0.5
        target = 255 if amount > 0 else 0
        colors[name] = tuple(round(value + abs(amount) * (target - value)) for value in PALETTE[hue])
    return colors


def numbered_names(names: Sequence[str]) -> dict[int, str]:
    """Of all classes, in the order of their labels, those that pictures show by number for want of a font."""
    return {label: name for label, name in enumerate(names) if font_path(shorten(name, LONGEST_NAME)) is None}


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray | Tensor | Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: np.ndarray | Tensor | Sequence[float] | None = None,
    colors: dict[str, Color] | None = None,
    track_ids: np.ndarray | Tensor | Sequence[int] | None = None,
) -> Image.Image:
    """A copy of the picture with the box, name and score of each detection.

    Names never cover one another or more than `PLATE_SHARE` of the picture; where there is no room, the box has no
    name. A name is drawn in a font of the system where the default font lacks its letters. Where no font has them, the
    class is drawn as `#` and its position in `colors` (see `numbered_names`), and a warning says so.

    Args:
        image: of any mode; its EXIF orientation is applied.
        boxes: `(T, 4)`, x1, y1, x2, y2 in pixels of the upright picture; parts outside the picture are not drawn.
        labels: `(T,)` class names.
        scores: `(T,)`, written after the names; higher scores choose the place of their name first.
        colors: RGB by class name, as `class_colors` returns them for all classes, so that a class has the same colour
            in every picture. By default, names get colours in the order in which they come.
        track_ids: `(T,)`, written after the names; negative ones are not.

    Returns an RGB picture of the size of the upright `image`. Lengths that differ, a box that is not finite or has a
    negative size, and a name that `colors` lacks are a ValueError.
    """
    boxes, scores = _checked(boxes, labels, scores)
    numbers = _numbers if colors is None else {name: index for index, name in enumerate(colors)}
    colors = class_colors(labels) if colors is None else colors
    if unknown := sorted(set(labels) - colors.keys()):
        raise ValueError(f"colors has no {unknown}: make it with class_colors of all names.")
    image = Image.fromarray(picture_to_array(image))
    scale = math.sqrt(image.width * image.height)
    line, font_size = max(1, round(LINE_WIDTH * scale)), max(SMALLEST_FONT, round(FONT_SIZE * scale))
    draw = ImageDraw.Draw(image, "RGBA")  # so that translucent colours blend

    low, high = np.floor(boxes[:, :2]).clip(0), np.ceil(boxes[:, 2:]).clip(max=image.size)
    corners = np.concatenate([low, np.maximum(high, low + 1)], axis=1).astype(int)  # (T, 4), half open
    inside = (boxes[:, 2:] > 0).all(1) & (boxes[:, :2] < image.size).all(1)
    by_area = np.argsort(-(corners[:, 2:] - corners[:, :2]).prod(1), kind="stable")  # small boxes on top of large ones
    edge = max(1, line // 3)
    # a coloured line between a thin dark one outside and a thin light one inside
    for index in by_area[inside[by_area]]:
        x1, y1, x2, y2 = corners[index].tolist()
        draw.rectangle((x1 - edge, y1 - edge, x2 - 1 + edge, y2 - 1 + edge), outline=DARK_EDGE, width=edge)
        if min(x2 - x1, y2 - y1) > 2 * line:
            draw.rectangle((x1 + line, y1 + line, x2 - 1 - line, y2 - 1 - line), outline=LIGHT_EDGE, width=edge)
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colors[labels[index]], width=line)

    layout, plates = LabelPlates(*image.size), []
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    for index in order[inside[order]]:
        if layout.is_full():
            break
        ending, box, color = "", tuple(corners[index].tolist()), colors[labels[index]]
        if track_ids is not None and track_ids[index] >= 0:
            ending = f" id {int(track_ids[index])}"
        ending += "" if scores is None else f": {scores[index]:.2f}"  # a colon, since names may be digits
        caption = fit_caption(labels[index], ending, numbers, font_size, image.width)
        plate = None if caption is None else layout.place(box, caption.size)
        if plate is None:
            continue
        plates.append((plate, caption, color))
        x, y = (plate[0] + plate[2]) // 2, (plate[1] + plate[3]) // 2
        nearest = min(max(x, box[0]), box[2] - 1), min(max(y, box[1]), box[3] - 1)
        if plate[2] < box[0] or plate[0] > box[2] or plate[3] < box[1] or plate[1] > box[3]:  # they do not touch
            draw.line(((x, y), nearest), fill=color, width=max(1, line // 2))
    for plate, caption, color in plates:
        draw.rectangle((plate[0], plate[1], plate[2] - 1, plate[3] - 1), fill=color)
        caption.draw(draw, plate, readable_on(color))
    return image


@dataclass(frozen=True)
class Caption:
    """A name in a font that has its letters, and what follows it, such as the score, in the default font."""

    name: str
    name_font: ImageFont.FreeTypeFont
    ending: str
    ending_font: ImageFont.FreeTypeFont

    @property
    def padding(self) -> int:
        return max(1, round(self.ending_font.size / 4))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the plate, in pixels."""
        length = self.name_font.getlength(self.name) + self.ending_font.getlength(self.ending)
        return math.ceil(length) + 2 * self.padding, math.ceil(1.3 * self.ending_font.size)

    def draw(self, draw: ImageDraw.ImageDraw, plate: Box, color: Color) -> None:
        x, y = plate[0] + self.padding, (plate[1] + plate[3]) / 2
        draw.text((x, y), self.name, fill=color, font=self.name_font, anchor="lm")
        x += self.name_font.getlength(self.name)
        draw.text((x, y), self.ending, fill=color, font=self.ending_font, anchor="lm")


def fit_caption(label: str, ending: str, numbers: dict[str, int], font_size: int, width: int) -> Caption | None:
    """Name and ending, the name cut to `LONGEST_NAME` and to the picture's width in pixels; None where nothing fits.

    `ending` is in ASCII, such as ": 0.50". `numbers`, by class name, are for names that no font can draw; a name that
    is missing there gets the next number.
    """
    name = shorten(label, LONGEST_NAME)
    path = font_path(name + "…" if len(name) > 1 else name)
    if path is None:
        number = numbers.setdefault(label, len(numbers))
        why = f"No font on this system has the letters of {name!r}: the class is drawn as #{number}."
        warnings.warn(f"{why} Install one, such as Noto Sans (CJK).", stacklevel=3)
        name, path = f"#{number}", ""
    name_font, ending_font = load_font(path, font_size), ImageFont.load_default(font_size)
    shorter = [(shorten(name, length), ending) for length in range(len(name) - 1, 1, -1)]
    texts = [(name, ending), *shorter, (name[:1], "")]
    captions = (Caption(text, name_font, end, ending_font) for text, end in texts if text or end)
    return next((caption for caption in captions if caption.size[0] <= width), None)


class LabelPlates:
    """Chooses a free place for each name on a picture: inside it, near the name's box, and not on another name.

    >>> plates = LabelPlates(100, 60)
    >>> plates.place((10, 30, 60, 50), (40, 12))  # above the box
    (10, 18, 50, 30)
    >>> plates.place((10, 30, 60, 50), (40, 12))  # that place is taken: beside it
    (60, 30, 100, 42)
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.placed = np.zeros((0, 4), dtype=np.int64)  # x1, y1, x2, y2, half open

    def is_full(self) -> bool:
        """Whether further names would hide too much of the picture."""
        covered = (self.placed[:, 2:] - self.placed[:, :2]).prod(1).sum()
        return len(self.placed) >= ALWAYS_NAMED and covered > PLATE_SHARE * self.width * self.height

    def place(self, box: Box, size: tuple[int, int]) -> Box | None:
        """Reserves the best free place, x1, y1, x2, y2, half open, for the name of a box within the picture, in pixels.

        A plate of `size`, width and height, touches the box where there is room, else it is as near as there is; None
        where nothing is free.
        """
        (x1, y1, x2, y2), (width, height) = box, size
        if width > self.width or height > self.height:
            return None
        inside_top, below = [(x1, y1), (x2 - width, y1)], [(x1, y2), (x2 - width, y2)]
        # steps downwards, for boxes that share their corner
        lower = [(x1, y1 + step * (height + PLATE_GAP)) for step in range(1, 4) if y1 + (step + 1) * height < y2]
        slide = range(x1, x2 - width, max(1, height // 2))
        touching = [(x1, y1 - height)]
        if (x2 - x1) * (y2 - y1) > 6 * width * height:  # the plate hides little of the object
            touching += inside_top[:1]
        touching += [(x2 - width, y1 - height), *below, (x2, y1), (x1 - width, y1)]
        touching += [(x, y1 - height) for x in slide] + [(x, y2) for x in slide]
        touching += inside_top + lower + [(x1, y2 - height), (x2 - width, y2 - height)]
        touching = np.array(touching)  # (N, 2) top left corners, best first
        touching[:, 0] = touching[:, 0].clip(0, self.width - width)
        step = max(1, height // 2)
        grid = np.mgrid[0 : self.width - width + 1 : step, 0 : self.height - height + 1 : step]
        anywhere = grid.reshape(2, -1, order="F").T  # row by row
        distance = np.abs(anywhere + (0, height) - (x1, y1)).sum(1)
        for corners in (touching, anywhere[distance.argsort(kind="stable")]):
            plates = np.concatenate([corners, corners + size], axis=1)  # (N, 4)
            inside = (corners >= 0).all(1) & (plates[:, 2:] <= (self.width, self.height)).all(1)
            a, b = plates[:, None], self.placed[None]  # (N, 1, 4), (1, T, 4)
            apart = (a[..., :2] >= b[..., 2:] + PLATE_GAP) | (b[..., :2] >= a[..., 2:] + PLATE_GAP)  # in x, in y
            free = np.flatnonzero(inside & apart.any(-1).all(-1))
            if len(free):
                self.placed = np.concatenate([self.placed, plates[free[:1]]])
                return tuple(self.placed[-1].tolist())
        return None


def readable_on(color: Color) -> Color:
    """Black or white, whichever has the higher contrast with a background (WCAG 2)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def _checked(boxes, labels: Sequence[str], scores) -> tuple[np.ndarray, np.ndarray | None]:
    """`(T, 4)` boxes and `(T,)` scores as arrays."""
    boxes, scores = (one.detach().float().cpu() if isinstance(one, Tensor) else one for one in (boxes, scores))
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
