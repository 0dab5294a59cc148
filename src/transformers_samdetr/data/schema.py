"""The one form in which detection data travel through the package: that of COCO sets on the Hub."""

import ctypes
import hashlib
import math
from array import array
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value
from datasets.fingerprint import generate_random_fingerprint

from ..annotations import LARGEST_AREA, shown
from .box_formats import boxes_to_xywh

LARGEST_SIDE = 2**31 - 1
"""Pixels that a set's column of widths or heights holds."""
AnySet = Dataset | IterableDataset
CHUNK = 1000
"""Rows that are read together."""


def detection_features(names: list[str]) -> Features:
    """Features of an example: `image`, `image_id`, `width`, `height` and `objects`.

    `objects` holds equally long lists: `id`, `area` in square pixels, `bbox` (x, y, width, height) in pixels of the
    picture as displayed, `category` (index into `names`) and `iscrowd`. Two classes of the same name are a ValueError.
    """
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"The classes {twice} occur more than once: give each class a name of its own.")
    objects = {
        "id": List(Value("int64")),
        "area": List(Value("float64")),  # in float32 an area of 1024.0000001 would be small and medium, as COCO counts
        "bbox": List(List(Value("float64"), length=4)),
        "category": List(ClassLabel(names=names)),
        "iscrowd": List(Value("int8")),
    }
    size = {"width": Value("int32"), "height": Value("int32")}
    return Features({"image": Image(), "image_id": Value("int64"), **size, "objects": objects})


def coco_annotations(example: dict[str, Any]) -> dict[str, Any]:
    """An example's objects as the image processor takes them: `{"image_id", "annotations": [...]}`."""
    columns = {name.replace("category", "category_id"): values for name, values in example["objects"].items()}
    rows = zip(*columns.values(), strict=True)
    return {"image_id": example["image_id"], "annotations": [dict(zip(columns, row, strict=True)) for row in rows]}


def box_of(value: Any, where: object) -> list[float]:
    """Four floats, maybe NaN or infinite, of four numbers or texts; else a ValueError, which begins with `where`.

    >>> box_of([1, "2.5", 3, 4], "image 7")
    [1.0, 2.5, 3.0, 4.0]
    """
    numbers = value if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else ()
    try:
        if len(numbers) == 4:
            return [float(number) for number in numbers]
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{where} has the box {shown(value, repr)}, which is not four numbers.")


def side_of(value: Any, name: str, where: object) -> int:
    """A width or height in whole pixels, 0 where it is not known; a ValueError if it is none of a picture."""
    try:
        side = int(float(value)) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        side = -1
    if not 0 <= side <= LARGEST_SIDE:
        raise ValueError(f"{where} has the {name} {shown(value, repr)}: give its pixels, up to {LARGEST_SIDE}.")
    return side


def area_of(value: Any, where: object) -> float:
    """An object's area in square pixels; a ValueError if it is negative, beyond that of any picture or no number."""
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        area = math.nan
    if not 0 <= area <= LARGEST_AREA:  # so that NaN fails too
        raise ValueError(f"{where} has the area {shown(value, repr)}: give square pixels, or none for the box's own.")
    return area


def crowd_of(value: Any, where: object) -> int:
    """0 for one object, also where nothing is said, 1 for a crowd region; a ValueError if it is neither."""
    if value is None:
        return 0
    if not isinstance(value, (bool, int, float, np.generic)) or value not in (0, 1):
        raise ValueError(f"{where} has iscrowd {shown(value, repr)}: give 0 for one object, 1 for a crowd region.")
    return int(value)


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """A picture as its source describes it; None is what the source does not say."""

    image: str | None  # path of the file, or None where the picture is in a column of a set
    image_id: int | str | None
    width: int | None  # in pixels, as annotated
    height: int | None
    boxes: Sequence[Sequence[float]]  # in the source's format, as many as of all that follows
    categories: Sequence[int | str]  # the source's ids or names
    areas: Sequence[float | None] | None = None
    crowds: Sequence[int | None] | None = None
    ids: Sequence[int | None] | None = None

    def __str__(self) -> str:
        """What errors call the picture."""
        return f"image {shown(self.image_id)}" + (f" ({shown(self.image)})" if self.image else "")


class AnnotatedPictures:
    """Pictures of one split with their objects, stored by column, so a million objects take tens of megabytes.

    `N` pictures as in `AnnotatedPicture`, and `T` objects, picture after picture; `boxes` holds `4 T` numbers.
    """

    def __init__(self) -> None:
        self.images: list[str | None] = []
        self.image_ids: list[int | str | None] = []
        self.widths, self.heights, self.counts = array("q"), array("q"), array("q")  # counts of objects
        self.boxes, self.areas = array("d"), array("d")  # areas are NaN where the source has none
        self.categories: list[int | str] = []
        self.crowds, self.ids = array("b"), array("q")  # ids are positions in the picture where the source has none

    def __len__(self) -> int:
        return len(self.images)

    def add(self, picture: AnnotatedPicture) -> None:
        """Adds one; boxes may be NaN or anywhere, which the checks report. Other wrong values raise a ValueError."""
        count = len(picture.boxes)
        for name in ("categories", "areas", "crowds", "ids"):
            values = getattr(picture, name)
            if values is not None and len(values) != count:
                raise ValueError(f"{picture} has {count} boxes but {len(values)} {name}: give one for each box.")
        self.widths.append(side_of(picture.width, "width", picture))
        self.heights.append(side_of(picture.height, "height", picture))
        self.images.append(picture.image)
        self.image_ids.append(picture.image_id)
        self.counts.append(count)
        for box in picture.boxes:
            self.boxes.fromlist(box_of(box, picture))
        self.categories.extend(picture.categories)
        areas, crowds, ids = picture.areas or [None] * count, picture.crowds or [None] * count, picture.ids
        self.areas.extend(math.nan if area is None else area_of(area, picture) for area in areas)
        self.crowds.extend(crowd_of(crowd, picture) for crowd in crowds)
        self.ids.extend(range(count) if ids is None else [0 if i is None else i for i in ids])

    def to_arrow(self, labels: Mapping[int | str, int], box_format: str) -> pa.Table:
        """The columns `width`, `height` and `objects`; a ValueError names the image of a category without a label."""
        sizes, counts = np.stack([self.widths, self.heights], axis=1), np.array(self.counts, dtype=np.int64)
        try:
            found = np.fromiter((labels[category] for category in self.categories), dtype=np.int64)
        except (KeyError, TypeError):
            wrong = (i for i, one in enumerate(self.categories) if not isinstance(one, Hashable) or one not in labels)
            place = next(wrong)
            row = int(np.searchsorted(np.cumsum(counts), place, side="right"))
            picture = AnnotatedPicture(self.images[row], self.image_ids[row], None, None, [], [])
            problem = f"{picture} has the category {shown(self.categories[place], repr)}"
            raise ValueError(f"{problem}, which is none of the set's {list(labels)[:20]}.") from None
        with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are not finite, which the checks report
            boxes = boxes_to_xywh(np.asarray(self.boxes), box_format, np.repeat(sizes, counts, axis=0))
            areas = np.where(np.isnan(self.areas), boxes.T[2] * boxes.T[3], self.areas)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        columns = {
            "id": np.asarray(self.ids),
            "area": areas,
            "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1)), 4),
            "category": found,
            "iscrowd": np.asarray(self.crowds),
        }
        lists = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in columns.values()]
        width, height = (pa.array(sides, pa.int32()) for sides in sizes.T)
        objects = pa.StructArray.from_arrays(lists, names=list(columns))
        return pa.table({"width": width, "height": height, "objects": objects})


@dataclass(frozen=True)
class FolderContent:
    """What a folder of pictures and annotations holds."""

    splits: dict[str, AnnotatedPictures]  # named as in the folder
    categories: dict[int | str, str]  # class name of each category id, in the order of the labels
    box_format: str  # one of BOX_FORMATS
    notes: list[str]  # what the reader decided by itself


def to_dataset(columns: Mapping[str, Any], annotations: pa.Table, features: Features) -> Dataset:
    """A set in memory, of columns of its own and those of `AnnotatedPictures.to_arrow`."""
    columns = dict(columns) | {name: annotations[name] for name in annotations.column_names}
    arrays = []
    for field in features.arrow_schema:
        column = columns[field.name]
        is_arrow = isinstance(column, (pa.Array, pa.ChunkedArray))
        arrays.append(column.cast(field.type) if is_arrow else pa.array(column, field.type))
    table = pa.Table.from_arrays(arrays, schema=features.arrow_schema)
    # a random fingerprint: of the content the library would make by pickling all of it
    return Dataset(table, fingerprint=generate_random_fingerprint())


def return_free_memory() -> None:
    """Gives what Arrow and the C library keep for later back to the system, where they can."""
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, TypeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def content_fingerprint(*splits: Dataset, names: Sequence[str]) -> str:
    """Changes with any annotation, class name, id or size of a picture, but not with the folder they are in."""
    digest = hashlib.sha256("\n".join(names).encode())

    def update(array: pa.Array) -> None:
        if pa.types.is_struct(array.type):
            for index in range(array.type.num_fields):
                update(array.field(index))
        elif pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
            if pa.types.is_list(array.type):
                digest.update(np.diff(array.offsets.to_numpy()).tobytes())
            update(array.flatten())
        else:
            digest.update(array.to_numpy(zero_copy_only=False).tobytes())

    for split in splits:
        annotations = split.select_columns([name for name in split.column_names if name != "image"])
        for batch in annotations.with_format("arrow").iter(batch_size=CHUNK):
            for column in batch.columns:
                chunk = column.combine_chunks()
                update(chunk.combine_chunks() if isinstance(chunk, pa.ChunkedArray) else chunk)
        digest.update(b"split")
    return digest.hexdigest()[:32]
