"""A self-contained HTML page of pictures with their detections."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..visualization.drawing import LONGEST_NAME
from ..visualization.fonts import shorten
from ..visualization.web_page import picture_url, write_page

LONGEST_SIDE, SHORTEST_SIDE = 640, 400
"""Of a picture on the page, in pixels; a smaller one is enlarged before its boxes are drawn."""
MAX_PICTURES, QUALITY = 500, 85
"""On a page, about 60 kB each; the others are counted and named."""


class PredictionPage:
    """Collects pictures for a page, then writes it; `model` is the name of the model."""

    def __init__(self, path: Path, model: str):
        self.path, self.model, self.pictures = path, model, []

    def add(
        self, file_name: str, drawn: Image.Image, names: Sequence[str], figures: Sequence[Image.Image] = ()
    ) -> None:
        """Adds a drawn picture, with the class of each detection, and figures that explain it."""
        shown = len(self.pictures) < MAX_PICTURES
        picture = {"file_name": file_name, "counts": Counter(names).most_common()}
        picture["url"] = picture_url(drawn, QUALITY, LONGEST_SIDE) if shown else None
        picture["figures"] = [picture_url(figure, QUALITY, 2 * LONGEST_SIDE) for figure in figures if shown]
        self.pictures.append(picture)

    def write(self, statements: Sequence[str], unreadable: dict[str, str], numbered: dict[int, str]) -> None:
        """Writes the page, whose folder is made if need be.

        It has statements, such as the threshold, why files are unreadable, and, see `numbered_names`, the classes that
        pictures show by number.
        """
        classes = sum((Counter(dict(picture["counts"])) for picture in self.pictures), Counter()).most_common()
        values = {"model": self.model, "statements": statements, "unreadable": unreadable, "numbered": numbered}
        values |= {"pictures": self.pictures, "classes": classes}
        filters = {"short": lambda name: shorten(name, LONGEST_NAME)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_page(self.path, "transformers_samdetr.prediction", "prediction_page.html", values, filters)


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "picture"), plural(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{count:,} {noun}{'s' * (count != 1)}"
