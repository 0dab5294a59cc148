"""What the files of pictures tell: unreadable, of another size than annotated, rotated, the same as another."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from scipy.spatial import cKDTree

from ..pictures import UnreadablePictureError, exif_orientation, opened_picture, require_file, upright
from .dataset import NO_PICTURE, picture_name, undecoded
from .source_files import SIDEWAYS

Place = tuple[str, int]
"""A split and a row of it."""
BATCH = 100
THUMBNAIL = 12
SIMILAR = 2.5
"""Largest root mean square difference of two thumbnails that may show the same, in levels of 0 to 255.

Photographs saved again, also as JPEG of quality 60 or half the size, stay below 2. So do many of a fixed camera.
"""
VERY_SIMILAR = 1.0
"""Thumbnails as close as this are looked at again whatever the annotations are."""
MOST_COMPARED = 5000
"""Pairs of similar pictures that are looked at again, the most similar first."""
LOOK_SIDE, CELL = 256, 8
"""Longest side of pictures that are compared, and the side of the cells whose means are, in pixels."""
CELL_DIFFERS, OBJECT_DIFFERS = 8.0, 16.0
"""Levels from which pictures differ: difference of the means of a cell, mean difference within an object's box."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What is known of a picture after looking at its file."""

    image_id: int
    path: str | None  # None where a column holds the picture
    error: str | None  # why it cannot be read
    digest: bytes = b""  # of the file's content
    stored_size: tuple[int, int] = (0, 0)  # width and height of the pixels as stored
    orientation: int = 1  # EXIF's, 1 for upright
    thumbnail: bytes = b""  # 12 x 12 x 3 levels, upright

    @property
    def name(self) -> str:
        """Its id, and its path where it has one."""
        return picture_name(self.image_id, self.path)

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Width and height with the orientation applied."""
        return self.stored_size[::-1] if self.orientation in SIDEWAYS else self.stored_size


def look_at_pictures(
    data: Dataset, rows: Iterable[int], progress: Callable[[Iterable], Iterable] = iter
) -> dict[int, PictureFacts]:
    """Reads and decodes the pictures of some rows of a set; `progress` wraps the rows, as tqdm does."""
    stored = undecoded(data.select_columns(["image", "image_id"]))
    rows, facts, batch = list(map(int, rows)), {}, {}
    for position, row in enumerate(progress(rows)):
        if position % BATCH == 0:
            batch = stored[rows[position : position + BATCH]]
        picture, image_id = batch["image"][position % BATCH] or NO_PICTURE, batch["image_id"][position % BATCH]
        path, content = picture["path"], picture["bytes"]
        try:
            if content is None:
                require_file(path or "")
                content = Path(path or "").read_bytes()
            with opened_picture(content, "") as image:
                size, orientation = image.size, exif_orientation(image)
                image.draft("RGB", (THUMBNAIL * 8, THUMBNAIL * 8))  # JPEG then decodes a fraction of the pixels
                image.load()
                small = upright(image).convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
            digest = hashlib.sha256(content).digest()
            facts[row] = PictureFacts(image_id, path, None, digest, size, orientation, small)
        except UnreadablePictureError as error:
            facts[row] = PictureFacts(image_id, path, error.reason)
        except OSError as error:
            facts[row] = PictureFacts(image_id, path, str(error))
    return facts


def similar_pairs(facts: dict[Place, PictureFacts]) -> list[tuple[float, Place, Place]]:
    """Pairs of pictures whose thumbnails are close, `(root mean square difference in levels, one, other)`, rising.

    Each picture is compared with its nearest neighbours alone, so that the time grows as N log N. Of equal files only
    one is among `facts`, and none that is unreadable.
    """
    places = list(facts)
    if len(places) < 2:
        return []
    pixels = np.frombuffer(b"".join(facts[place].thumbnail for place in places), np.uint8).reshape(len(places), -1)

    def pieces(rows: np.ndarray) -> list[np.ndarray]:  # as many as float32 copies may be made of
        return np.split(rows, range(10_000, len(rows), 10_000))

    deviations = [pixels[rows].astype(np.float32).std(1) for rows in pieces(np.arange(len(pixels)))]
    varied = np.flatnonzero(np.concatenate(deviations) > 4)  # levels; flat ones look alike without being so
    if len(varied) < 2:
        return []
    sample = pixels[varied[:: max(1, len(varied) // 5000)]].astype(np.float32)
    mean = sample.mean(0)
    # neighbours are searched in twelve principal components, where distances are no larger than the whole ones
    directions = np.linalg.eigh((sample - mean).T @ (sample - mean))[1][:, -12:]
    projected = np.concatenate([(pixels[rows].astype(np.float32) - mean) @ directions for rows in pieces(varied)])
    limit = SIMILAR * np.sqrt(pixels.shape[1])
    _, neighbours = cKDTree(projected).query(projected, k=min(7, len(varied)), distance_upper_bound=limit)
    one, column = np.nonzero(neighbours < len(varied))
    pairs = np.sort(np.stack([one, neighbours[one, column]], axis=1), axis=1)
    found = []
    for piece in pieces(np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)):
        first, second = varied[piece].T
        distances = np.sqrt(((pixels[first].astype(np.float32) - pixels[second]) ** 2).mean(1))
        for i in np.flatnonzero(distances <= SIMILAR):
            found.append((float(distances[i]), places[first[i]], places[second[i]]))
    return sorted(found)


def largest_difference(one: str | bytes, other: str | bytes, boxes: Sequence[np.ndarray] = ()) -> float:
    """How much two pictures, paths or bytes, differ at most: 0 for equal pixels, from 1 on they show something else.

    Both are reduced to the same size. The means of cells are compared, and all pixels within the objects' boxes: a
    picture saved again differs little everywhere, a piece that has moved much in two places. `boxes` has `(T, 4)` of
    each, (x, y, width, height) as shares of the picture.
    """
    images = []
    for content in (one, other):
        with opened_picture(content, "") as image:
            image.draft("RGB", (LOOK_SIDE, LOOK_SIDE))
            image.load()
            image = upright(image).convert("RGB")
        scale = min(1, LOOK_SIDE / max(image.size))
        sides = [max(1, round(side * scale)) for side in image.size]
        images.append(image.resize(sides, Image.Resampling.BOX))
    first, second = (image.width / image.height for image in images)
    if abs(first - second) > 0.02 * first:
        return np.inf
    width, height = size = min(image.size for image in images)  # in which both have all their pixels
    pictures = [np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32) for image in images]
    difference = pictures[0] - pictures[1]  # (H, W, 3)
    rows, columns = np.arange(0, height, CELL), np.arange(0, width, CELL)
    sums = np.add.reduceat(np.add.reduceat(difference, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    largest = float(np.abs(sums / counts[..., None]).max()) / CELL_DIFFERS
    for box in np.concatenate(boxes) if len(boxes) else ():
        left, top = np.floor(box[:2].clip(0, 1) * (width, height)).astype(int)
        right, bottom = np.ceil((box[:2] + box[2:]).clip(0, 1) * (width, height)).astype(int)
        if right > left and bottom > top:
            largest = max(largest, float(np.abs(difference[top:bottom, left:right]).mean()) / OBJECT_DIFFERS)
    return largest
