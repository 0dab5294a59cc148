"""A picture with its errors drawn: what is annotated on the left, what was detected on the right."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor

from ..visualization import draw_detections
from .errors import ErrorKinds
from .figures import ERROR_COLORS
from .worst_pictures import SHOWN, Picture

LONGEST_SIDE = 512
"""Pixels of each half."""
GAP = 8


def draw_errors(image: Image.Image, picture: Picture, names: Sequence[str], kind: ErrorKinds) -> Image.Image:
    """Both halves as one RGB picture.

    Left, objects: green, or red where missed, or grey for crowd regions. Right, the errors of the kind with the highest
    scores in the kind's colour; for missed objects the highest detections of any kind, each in its colour.

    Args:
        image: as it was detected on, upright.
        picture: what was found and annotated.
        names: class names.
        kind: of the errors to show.
    """
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    crowd = picture.truth["ignored"][:, 0]
    # names of what was found would hide what was missed
    named = picture.truth["missed"] if kind == ErrorKinds.MISSED else np.ones(len(crowd), dtype=bool)
    texts = [names[label] if name else "" for label, name in zip(picture.truth["label"], named, strict=True)]
    colors = np.where(crowd, "#8C8C8C", np.where(picture.truth["missed"], _color(kind.MISSED), _color(kind.CORRECT)))
    left = _draw(image, picture.objects.boxes * scale, texts, None, colors)

    found = picture.found
    chosen = np.ones(len(found), dtype=bool) if kind == ErrorKinds.MISSED else found["error"] == kind
    chosen &= found["error"] != ErrorKinds.IGNORED
    highest = np.flatnonzero(chosen)[np.argsort(-found["score"][chosen], kind="stable")][:SHOWN]
    texts = [names[label] for label in found["label"][highest]]
    colors = [_color(ErrorKinds(error)) for error in found["error"][highest]]
    right = _draw(image, picture.boxes[highest] * scale, texts, found["score"][highest], colors)

    both = Image.new("RGB", (2 * image.width + GAP, image.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (image.width + GAP, 0))
    return both


def _color(kind: ErrorKinds) -> str:
    return ERROR_COLORS[kind]


def _draw(image: Image.Image, boxes: np.ndarray, texts: Sequence[str], scores, colors: Sequence[str]) -> Image.Image:
    """Draws boxes of x y w h, each in its own colour."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    # the same name may need two colours: spaces at its end, which are not drawn, tell them apart
    marks = {color: " " * index for index, color in enumerate(dict.fromkeys(colors))}
    labels = [text + marks[color] for text, color in zip(texts, colors, strict=True)]
    of_label = {label: ImageColor.getrgb(color) for label, color in zip(labels, colors, strict=True)}
    return draw_detections(image, corners, labels, scores, of_label)
