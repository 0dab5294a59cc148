"""Box formats: what each means, and which one a set is in, decided by its boxes and the names of their columns."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

FORMATS = ("xywh", "xyxy", "cxcywh")
NORMALISED = "_normalised"
BOX_FORMATS = FORMATS + tuple(name + NORMALISED for name in FORMATS)
"""(x, y, width, height), (x1, y1, x2, y2), (center x, center y, width, height), in pixels or shares of the picture."""
ALIASES = {"coco": "xywh", "pascal_voc": "xyxy", "albumentations": "xyxy_normalised", "yolo": "cxcywh_normalised"}
ALIASES |= {name + "_normalized": name + NORMALISED for name in FORMATS}
CORNERS = ("xmin ymin xmax ymax", "x1 y1 x2 y2", "x0 y0 x1 y1", "xtl ytl xbr ybr", "left top right bottom")
STARTS = {
    **dict.fromkeys(("xmin ymin", "left top"), ("xywh",)),
    **dict.fromkeys(("xcenter ycenter", "centerx centery", "cx cy"), ("cxcywh",)),
    "x y": ("xywh", "cxcywh"),
}
# four columns that are boxes together, and the formats that these can be in
SEPARATE_COLUMNS = dict.fromkeys(CORNERS, ("xyxy",)) | {
    f"{start} {size}": formats for start, formats in STARTS.items() for size in ("w h", "width height")
}

SLACK = 0.005  # how far, as a share of the picture, a box may stick out by rounding; at least SLACK_PIXELS
SLACK_PIXELS = 2.0
MOST_WRONG = 0.02  # share of a set's boxes that may be wrong in its own format
EVIDENCE = 3  # so many boxes, and five times as many as in the best format, must be wrong to rule another one out


def check_box_format(name: str) -> str:
    """The format's own name, of it or of an alias such as `"coco"`; raises a ValueError where there is no such format.

    >>> check_box_format("pascal_voc")
    'xyxy'
    """
    name = ALIASES.get(name, name)
    if name not in BOX_FORMATS:
        raise ValueError(f"box_format={name!r} is none of {', '.join(BOX_FORMATS)} ({', '.join(ALIASES)}).")
    return name


def four_columns(names: Iterable[str]) -> tuple[list[str], tuple[str, ...]]:
    """The names of four columns that are boxes together, in order, and the formats that these can be in.

    >>> four_columns(["label", "box_h", "box_w", "box_x", "box_y"]), four_columns(["label", "boxes"])
    ((['box_x', 'box_y', 'box_w', 'box_h'], ('xywh', 'cxcywh')), ([], ('xywh', 'xyxy', 'cxcywh')))
    """
    names = sorted(names, key=lambda name: "box" in name.lower())  # before the width of the picture
    plain = {re.sub("^b?box|[_ -]", "", name.rpartition(".")[2].lower()): name for name in names}
    for columns, formats in SEPARATE_COLUMNS.items():
        if plain.keys() >= set(columns.split()):
            return [plain[column] for column in columns.split()], formats
    return [], FORMATS


def boxes_to_xywh(boxes: np.ndarray, box_format: str, sizes: np.ndarray) -> np.ndarray:
    """`(T, 4)` boxes as (x, y, width, height) in pixels, of boxes in one of `BOX_FORMATS`.

    `sizes` are `(T, 2)`, width and height of each box's picture in pixels, read for normalised formats alone.

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
    return boxes if box_format.startswith("xywh") else np.concatenate([first, second], axis=1)


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
        others = [f"{name} {wrong}" for name, wrong in self.wrong.items() if name != self.box_format]
        impossible = f" (impossible as {', '.join(others)})" if others else ""
        return f"{self.box_format}, detected on {self.count} boxes{impossible}"


def detect_box_format(
    boxes: np.ndarray,
    sizes: np.ndarray,
    areas: np.ndarray | None = None,
    source: str = "the data",
    formats: Sequence[str] = FORMATS,
) -> FormatGuess:
    """The one of `formats`, in pixels or normalised, in which a sample of boxes lie in their pictures and have a size.

    Args:
        boxes, sizes: `(T, 4)`, and `(T, 2)`, width and height of each box's picture in pixels.
        areas: `(T,)` annotated areas in square pixels, where there are any: none can exceed its box, and areas that are
            all those of the boxes in one format rule out the others.
        source, formats: named in errors; those of `FORMATS` that the names of the columns allow.

    Without boxes, or where none of the formats is possible, or several, there is a ValueError with examples.
    """
    boxes, sizes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(sizes, dtype=np.float64)
    declare = f"Declare it with box_format= (--box_format), one of {', '.join(BOX_FORMATS)}."
    if not len(boxes):
        raise ValueError(f"{source} has no boxes in its first pictures to detect their format on. {declare}")

    def examples(rows: Iterable[int]) -> str:
        return ", ".join("[{:g}, {:g}, {:g}, {:g}] in {:g}x{:g}".format(*boxes[row], *sizes[row]) for row in rows)

    normalised = np.mean((np.abs(boxes) <= 1.5).all(1)) > 0.5
    candidates = [name + NORMALISED for name in formats] if normalised else list(formats)
    slack = np.maximum(SLACK * sizes, SLACK_PIXELS)  # (T, 2)
    impossible, wrong, agree = {}, {}, {}
    for name in candidates:
        first, size = np.hsplit(boxes_to_xywh(boxes, name, sizes), 2)
        possible = ((first >= -slack) & (first + size <= sizes + slack) & (size > 0)).all(1)  # NaN fails too
        if areas is not None:
            possible &= ~(areas > (size + 1).prod(1) * 1.02)
            agree[name] = np.mean(np.abs(size.prod(1) - areas) <= 0.02 * areas + 1)
        impossible[name] = ~possible
        wrong[name] = int(impossible[name].sum())
    if max(agree.values(), default=0) > 0.9:
        wrong |= {name: len(boxes) for name, share in agree.items() if share < 0.5}
    best = min(wrong, key=wrong.get)
    rivals = [name for name in wrong if name != best and wrong[name] < max(EVIDENCE, 5 * wrong[best])]
    if wrong[best] > MOST_WRONG * len(boxes):
        such = f"have no size or leave their picture, such as {examples(np.flatnonzero(impossible[best])[:3])}"
        problem = f"fit no format: in the best one, {best}, {wrong[best]} of {len(boxes)} {such}"
        raise ValueError(f"The boxes of {source} {problem}. Correct them, or declare box_format=.")
    if rivals:
        few = f"of {len(boxes)} looked at, such as {examples(range(len(boxes))[:3])}, too few rule one out"
        raise ValueError(f"The boxes of {source} could be {' or '.join([best, *rivals])}: {few}. {declare}")
    return FormatGuess(best, wrong, len(boxes))
