"""What the files of pictures tell: unreadable, of another size than annotated, rotated, the same as another."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from ..pictures import UnreadablePictureError, exif_orientation, opened_picture, require_file, upright
from .dataset import NO_PICTURE
from .source_files import SIDEWAYS

THUMBNAIL = 12
SAME_LOOK = 2.5
"""Largest root mean square difference of two thumbnails that show the same, in levels of 0 to 255.

Photographs saved again, as PNG or as JPEG of quality 60 or half the size, stay below 2; different ones of the same card
on the same table are 7 or more apart.
"""
FLAT = 4.0
"""Thumbnails that vary less than this look alike without being so."""
BLOCK = 2000
Place = tuple[str, int]


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture after looking at its file.

    Attributes:
        name: its id, and its path where it has one.
        error: why it cannot be read, or None.
        digest: of the file's content.
        stored_size: width and height of the pixels as stored.
        orientation: EXIF's, 1 for upright.
        thumbnail: `(12 · 12 · 3,)` uint8, upright, or None where it was not decoded.
    """

    name: str
    error: str | None
    digest: bytes = b""
    stored_size: tuple[int, int] = (0, 0)
    orientation: int = 1
    thumbnail: np.ndarray | None = None

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Width and height with the orientation applied."""
        return self.stored_size[::-1] if self.orientation in SIDEWAYS else self.stored_size


def look_at_pictures(
    data: Dataset, rows: Iterable[int], progress: Callable[[Iterable], Iterable] = iter
) -> dict[int, PictureFacts]:
    """Reads and decodes pictures of a set.

    Args:
        data: in the schema of `detection_features`.
        rows: of the pictures.
        progress: wraps the rows, as tqdm does.
    """
    stored = data.select_columns(["image", "image_id"]).cast_column("image", ImageFeature(decode=False))
    facts = {}
    for row in progress(rows):
        example = stored[int(row)]
        picture = example["image"] or NO_PICTURE
        path, content = picture["path"], picture["bytes"]
        name = f"image {example['image_id']}" + (f" ({path})" if path else "")
        facts[int(row)] = _look_at(name, path, content)
    return facts


def _look_at(name: str, path: str | None, content: bytes | None) -> PictureFacts:
    try:
        if content is None:
            require_file(path or "")
            content = Path(path or "").read_bytes()
        with opened_picture(content, name) as image:
            orientation = exif_orientation(image)
            size = image.size
            image.draft("RGB", (THUMBNAIL * 8, THUMBNAIL * 8))  # JPEG then decodes a fraction of the pixels
            image.load()
            small = upright(image).convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        return PictureFacts(
            name, None, hashlib.sha256(content).digest(), size, orientation, np.asarray(small).reshape(-1)
        )
    except UnreadablePictureError as error:
        return PictureFacts(name, error.reason)
    except OSError as error:
        return PictureFacts(name, str(error))


def fact_at(facts: dict[str, dict[int, PictureFacts]], place: Place) -> PictureFacts:
    return facts[place[0]][place[1]]


def same_files(places: list[Place], facts: dict[str, dict[int, PictureFacts]]) -> set[tuple[Place, Place]]:
    groups = defaultdict(list)
    for place in places:
        groups[fact_at(facts, place).digest].append(place)
    return {(group[0], other) for group in groups.values() for other in group[1:]}


def same_looks(places: list[Place], facts: dict[str, dict[int, PictureFacts]]) -> set[tuple[Place, Place]]:
    pictures = [(place, fact_at(facts, place).thumbnail) for place in places]
    pictures = [(place, pixels) for place, pixels in pictures if pixels is not None and pixels.std() > FLAT]
    if len(pictures) < 2:
        return set()
    pixels = np.stack([pixels for _, pixels in pictures]).astype(np.float32)  # (N, D)
    squares = (pixels**2).sum(1)
    found = set()
    for start in range(0, len(pixels), BLOCK):
        block = slice(start, start + BLOCK)
        distances = squares[block, None] + squares[None, start:] - 2 * pixels[block] @ pixels[start:].T
        close = np.argwhere(distances <= SAME_LOOK**2 * pixels.shape[1])
        found |= {(start + i, start + j) for i, j in close.tolist() if i < j}
    return {(pictures[i][0], pictures[j][0]) for i, j in found}
