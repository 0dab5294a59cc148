"""The one form in which detection data travel through the package: that of COCO sets on the Hub."""

import hashlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, List, Value

from ..annotations import LARGEST_AREA, shown
from ..pictures import UnreadablePictureError, exif_orientation, opened_picture
from .box_formats import boxes_to_xywh

LARGEST_SIDE = 2**31 - 1
"""Pixels that a set's column of widths or heights holds."""
AnySet = Dataset | IterableDataset
CHUNK = 1000
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


def annotation_features(names: list[str]) -> Features:
    """`detection_features` without the picture.

    Raises:
        ValueError: two classes have the same name.
    """
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"The classes {twice} occur more than once: give each class a name of its own.")
    return Features(
        {
            "image_id": Value("int64"),
            "width": Value("int32"),
            "height": Value("int32"),
            "objects": {
                "id": List(Value("int64")),
                # as in the source: in float32 an area of 1024.0000001 would be small and medium, as COCO counts
                "area": List(Value("float64")),
                "bbox": List(List(Value("float64"), length=4)),
                "category": List(ClassLabel(names=names)),
                "iscrowd": List(Value("int8")),
            },
        }
    )


def detection_features(names: list[str]) -> Features:
    """Features of an example: `image`, `image_id`, `width`, `height` and `objects`.

    `objects` holds equally long lists: `id`, `area` in square pixels, `bbox` (x, y, width, height) in pixels of the
    picture as displayed, `category` (index into `names`) and `iscrowd`.
    """
    return Features({"image": Image(), **annotation_features(names)})


def category_names(features: Features) -> list[str]:
    """The class names of a set in this schema, in the order of their labels."""
    return features["objects"]["category"].feature.names


def coco_annotations(example: dict[str, Any]) -> dict[str, Any]:
    """An example's objects as the image processor takes them: `{"image_id", "annotations": [...]}`."""
    objects = example["objects"]
    annotations = [
        {"id": i, "area": area, "bbox": box, "category_id": category, "iscrowd": crowd}
        for i, area, box, category, crowd in zip(
            *(objects[key] for key in ("id", "area", "bbox", "category", "iscrowd")), strict=True
        )
    ]
    return {"image_id": example["image_id"], "annotations": annotations}


def box_of(value: Any, where: str) -> list[float]:
    """Four floats, perhaps not finite, of four numbers or texts of numbers.

    >>> box_of([1, "2.5", 3, 4], "image 7")
    [1.0, 2.5, 3.0, 4.0]

    Raises:
        ValueError: it is anything else.
    """
    numbers = value if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else ()
    if len(numbers) == 4:
        try:
            return [float(number) for number in numbers]
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{where} has the box {shown(value, repr)}, which is not four numbers.")


def side_of(value: Any, name: str, where: str) -> int:
    """A width or height in whole pixels, 0 where it is not known.

    Raises:
        ValueError: it is no number from 0 to `LARGEST_SIDE`.
    """
    try:
        side = int(value)
    except (TypeError, ValueError, OverflowError):
        side = -1
    if not 0 <= side <= LARGEST_SIDE:
        raise ValueError(f"{where} has the {name} {shown(value, repr)}: give its pixels, up to {LARGEST_SIDE}.")
    return side


def area_of(value: Any, where: str) -> float:
    """An object's area in square pixels.

    Raises:
        ValueError: it is no number from 0 on, or beyond that of any picture.
    """
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        area = math.nan
    if not 0 <= area <= LARGEST_AREA:  # so that NaN fails too
        raise ValueError(f"{where} has the area {shown(value, repr)}: give square pixels, or none for the box's own.")
    return area


def crowd_of(value: Any, where: str) -> int:
    """0 for one object, also where nothing is said, or 1 for a crowd region.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return 0
    if not isinstance(value, (bool, int, float, np.generic)) or value not in (0, 1):
        raise ValueError(f"{where} has iscrowd {shown(value, repr)}: give 0 for one object, 1 for a crowd region.")
    return int(value)


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """A picture as its source describes it.

    Attributes:
        image: path of the file, or None where the picture is in a column of a set.
        image_id: of the source, or None.
        width, height: in pixels as annotated, or None.
        boxes: `T` boxes in the source's format.
        categories: `T` of the source's category ids or names.
        areas, crowds, ids: `T` each, or None where the source has none.
    """

    image: str | None
    image_id: int | str | None
    width: int | None
    height: int | None
    boxes: Sequence[Sequence[float]]
    categories: Sequence[int | str]
    areas: Sequence[float] | None = None
    crowds: Sequence[int] | None = None
    ids: Sequence[int] | None = None

    @property
    def name(self) -> str:
        """What errors call the picture."""
        return f"image {shown(self.image_id)}" + (f" ({shown(self.image)})" if self.image else "")


@dataclass(frozen=True)
class FolderContent:
    """What a folder of pictures and annotations holds.

    Attributes:
        splits: pictures by split, named as in the folder.
        categories: class name of each category id, in the order of the labels.
        box_format: one of `BOX_FORMATS`.
        notes: what the reader decided by itself.
    """

    splits: dict[str, list[AnnotatedPicture]]
    categories: dict[int | str, str]
    box_format: str
    notes: list[str]


def picture_size(content: str | bytes) -> tuple[int, int]:
    """Width and height of a displayed picture, its EXIF orientation applied, from the file's header alone.

    Args:
        content: path or bytes of a file.

    Returns:
        (0, 0) where the file is no picture, is missing, or is larger than Pillow opens.
    """
    try:
        with opened_picture(content, "") as image:
            return image.size[::-1] if exif_orientation(image) in SIDEWAYS else image.size
    except (UnreadablePictureError, OSError):
        return 0, 0


def canonical_example(
    picture: AnnotatedPicture, image_id: int, labels: Mapping[int | str, int], box_format: str
) -> dict[str, Any]:
    """The picture's annotations in the schema of `detection_features`, without the picture itself.

    Args:
        picture: with width and height.
        image_id: the integer id that it shall have.
        labels: label of each category.
        box_format: of the picture's boxes.

    Raises:
        ValueError: a category is none of `labels`, the lists are of different lengths, or a value is no number or none
            that the schema holds; the message names the image. A box may still be not finite or lie anywhere: what is
            wrong with it, the checks of the whole set say.
    """
    count = len(picture.boxes)
    for name in ("categories", "areas", "crowds", "ids"):
        values = getattr(picture, name)
        if values is not None and len(values) != count:
            raise ValueError(f"{picture.name} has {count} boxes but {len(values)} {name}: give one for each box.")
    for category in picture.categories:
        if not isinstance(category, Hashable) or category not in labels:
            known = list(labels)[:20]
            raise ValueError(
                f"{picture.name} has the category {shown(category, repr)}, which is none of the set's {known}."
            )
    width, height = side_of(picture.width, "width", picture.name), side_of(picture.height, "height", picture.name)
    boxes = np.array([box_of(box, picture.name) for box in picture.boxes], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are not finite, which are found later
        boxes = boxes_to_xywh(boxes, box_format, np.array([[width, height]], dtype=np.float64))
        areas = (boxes[:, 2] * boxes[:, 3]).tolist()
    if picture.areas is not None:
        given = zip(areas, picture.areas, strict=True)
        areas = [own if area is None else area_of(area, picture.name) for own, area in given]
    crowds = [None] * count if picture.crowds is None else picture.crowds
    return {
        "image_id": image_id,
        "width": width,
        "height": height,
        "objects": {
            "id": [0 if i is None else i for i in picture.ids] if picture.ids is not None else list(range(count)),
            "area": areas,
            "bbox": boxes.tolist(),
            "category": [labels[category] for category in picture.categories],
            "iscrowd": [crowd_of(crowd, picture.name) for crowd in crowds],
        },
    }


def to_dataset(examples: Iterable[Mapping[str, Any]], features: Features) -> Dataset:
    """A set of examples, in memory; pictures given as paths stay paths."""
    schema, tables, chunk = features.arrow_schema, [], []
    for example in examples:
        chunk.append(example)
        if len(chunk) == CHUNK:
            tables.append(pa.Table.from_pylist(chunk, schema=schema))
            chunk = []
    tables.append(pa.Table.from_pylist(chunk, schema=schema))
    return Dataset(pa.concat_tables(tables))


def content_fingerprint(*splits: Dataset, names: Sequence[str]) -> str:
    """Changes with any annotation, class name, id or size of a picture, but not with the folder they are in."""
    digest = hashlib.sha256("\n".join(names).encode())
    for split in splits:
        annotations = split.select_columns([name for name in split.column_names if name != "image"])
        for batch in annotations.with_format("arrow").iter(batch_size=CHUNK):
            for column in batch.columns:
                _update(digest, column.combine_chunks())
        digest.update(b"split")
    return digest.hexdigest()[:32]


def _update(digest, array: pa.Array) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            _update(digest, array.field(index))
    elif pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if pa.types.is_list(array.type):
            digest.update(np.diff(array.offsets.to_numpy()).tobytes())
        _update(digest, array.flatten())
    else:
        digest.update(array.to_numpy(zero_copy_only=False).tobytes())
