"""Box formats: what each means, and which one a set is in, decided by its boxes."""

from dataclasses import dataclass

import numpy as np

FORMATS = ("xywh", "xyxy", "cxcywh")
NORMALISED = "_normalised"
BOX_FORMATS = FORMATS + tuple(name + NORMALISED for name in FORMATS)
"""(x, y, width, height), (x1, y1, x2, y2), (center x, center y, width, height), in pixels or shares of the picture."""
ALIASES = {
    "coco": "xywh",
    "pascal_voc": "xyxy",
    "albumentations": "xyxy_normalised",
    "yolo": "cxcywh_normalised",
} | {name + "_normalized": name + NORMALISED for name in FORMATS}

SLACK = 0.005
"""How far, as a share of the picture, a box may stick out by rounding; at least `SLACK_PIXELS`."""
SLACK_PIXELS = 2.0
MOST_WRONG = 0.02
"""Share of a set's boxes that may be wrong in its own format."""
EVIDENCE = 3
"""So many boxes, and five times as many as in the best format, must be wrong before another format is ruled out."""


def check_box_format(name: str) -> str:
    """The format's own name, of it or of an alias such as `"coco"` or `"yolo"`.

    >>> check_box_format("pascal_voc")
    'xyxy'

    Raises:
        ValueError: there is no such format; the message lists them.
    """
    name = ALIASES.get(name, name)
    if name not in BOX_FORMATS:
        raise ValueError(f"box_format={name!r} is none of {', '.join(BOX_FORMATS)} ({', '.join(ALIASES)}).")
    return name


def boxes_to_xywh(boxes: np.ndarray, box_format: str, sizes: np.ndarray) -> np.ndarray:
    """`(T, 4)` boxes as (x, y, width, height) in pixels.

    Args:
        boxes: `(T, 4)` in `box_format`.
        box_format: one of `BOX_FORMATS`.
        sizes: `(T, 2)`, width and height of each box's picture, in pixels; only read for a normalised format.

    >>> boxes_to_xywh(np.array([[0.5, 0.5, 0.5, 1.0]]), "cxcywh_normalised", np.array([[40, 20]]))
    array([[10.,  0., 20., 20.]])
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if box_format.endswith(NORMALISED):
        boxes = boxes * np.tile(sizes, 2)
    first, second = boxes[:, :2], boxes[:, 2:]
    if box_format.startswith("xyxy"):
        second = second - first
    elif box_format.startswith("cxcywh"):
        first = first - second / 2
    return np.concatenate([first, second], axis=1)


def xywh_to_boxes(boxes: np.ndarray, box_format: str, sizes: np.ndarray) -> np.ndarray:
    """The inverse of `boxes_to_xywh`."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    first, second = boxes[:, :2], boxes[:, 2:]
    if box_format.startswith("xyxy"):
        second = first + second
    elif box_format.startswith("cxcywh"):
        first = first + second / 2
    boxes = np.concatenate([first, second], axis=1)
    return boxes / np.tile(sizes, 2) if box_format.endswith(NORMALISED) else boxes


@dataclass(frozen=True)
class FormatGuess:
    """The format of a sample of boxes, and how many of them would be wrong in each format."""

    box_format: str
    wrong: dict[str, int]
    count: int

    def __str__(self) -> str:
        others = ", ".join(f"{name} {wrong}" for name, wrong in self.wrong.items() if name != self.box_format)
        return f"{self.box_format}, detected on {self.count} boxes (impossible as {others})"


def detect_box_format(
    boxes: np.ndarray, sizes: np.ndarray, areas: np.ndarray | None = None, source: str = "the data"
) -> FormatGuess:
    """The one format in which boxes lie in their pictures and have a size.

    Args:
        boxes: `(T, 4)`, a sample.
        sizes: `(T, 2)`, width and height of each box's picture, in pixels.
        areas: `(T,)` annotated areas in square pixels, where there are any: none can exceed its box, and areas that are
            all those of the boxes in one format rule out the others.
        source: named in errors.

    Raises:
        ValueError: there are no boxes to decide on, none of the formats is possible, or more than one is. The message
            has examples.
    """
    boxes, sizes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(sizes, dtype=np.float64)
    declare = f"Declare it with box_format=, one of {', '.join(BOX_FORMATS)}."
    if not len(boxes):
        raise ValueError(f"{source} has no boxes in its first pictures to detect their format on. {declare}")
    normalised = np.mean((np.abs(boxes) <= 1.5).all(1)) > 0.5
    candidates = [name + NORMALISED for name in FORMATS] if normalised else list(FORMATS)
    impossible = {name: is_impossible(boxes, name, sizes, areas) for name in candidates}
    wrong = {name: int(rows.sum()) for name, rows in impossible.items()}
    if areas is not None:
        agree = {name: np.mean(_has_area(boxes, name, sizes, areas)) for name in candidates}
        if max(agree.values()) > 0.9:
            wrong |= {name: len(boxes) for name, share in agree.items() if share < 0.5}
    best = min(candidates, key=wrong.get)
    rivals = [name for name in candidates if name != best and wrong[name] < max(EVIDENCE, 5 * wrong[best])]
    if wrong[best] > MOST_WRONG * len(boxes):
        rows = np.flatnonzero(impossible[best])[:3]
        raise ValueError(
            f"The boxes of {source} fit no format: in the best one, {best}, {wrong[best]} of {len(boxes)} have no size "
            f"or leave their picture, such as {_examples(boxes, sizes, rows)}. Correct them, or declare box_format=."
        )
    if rivals:
        raise ValueError(
            f"The boxes of {source} could be {' or '.join([best, *rivals])}: of {len(boxes)} looked at, such as "
            f"{_examples(boxes, sizes, range(min(3, len(boxes))))}, too few rule one out. {declare}"
        )
    return FormatGuess(best, wrong, len(boxes))


def is_impossible(boxes: np.ndarray, box_format: str, sizes: np.ndarray, areas: np.ndarray | None = None) -> np.ndarray:
    """`(T,)` bool: in this format the box is not finite, has no size, leaves its picture, or is less than its area."""
    x, y, width, height = boxes_to_xywh(boxes, box_format, sizes).T
    slack = np.maximum(SLACK * sizes, SLACK_PIXELS)  # (T, 2)
    inside = (x >= -slack[:, 0]) & (y >= -slack[:, 1])
    inside &= (x + width <= sizes[:, 0] + slack[:, 0]) & (y + height <= sizes[:, 1] + slack[:, 1])
    possible = inside & (width > 0) & (height > 0)  # NaN fails too
    if areas is not None:
        possible &= ~(areas > (width + 1) * (height + 1) * 1.02)
    return ~possible


def _has_area(boxes: np.ndarray, box_format: str, sizes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """`(T,)` bool: the annotated area is that of the box in this format."""
    own = boxes_to_xywh(boxes, box_format, sizes)[:, 2:].prod(axis=1)
    return np.abs(own - areas) <= 0.02 * areas + 1


def _examples(boxes: np.ndarray, sizes: np.ndarray, rows) -> str:
    def text(box: np.ndarray) -> str:
        return "[" + ", ".join(f"{value:g}" for value in box) + "]"

    return ", ".join(f"{text(boxes[row])} in {sizes[row][0]:g}x{sizes[row][1]:g}" for row in rows)
