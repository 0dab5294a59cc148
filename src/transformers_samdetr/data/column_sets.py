"""Sets of the `datasets` library, whatever their columns, in the package's schema without decoding a picture."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset, Value, concatenate_datasets

from ..annotations import shown
from .box_formats import FormatGuess, detect_box_format
from .schema import (
    AnnotatedPicture,
    AnnotatedPictures,
    AnySet,
    annotation_features,
    box_of,
    canonical_example,
    detection_features,
    to_dataset,
)
from .source_files import picture_size

BATCH = 1000
SAMPLE = 300
"""Pictures on which the box format is detected."""
ClassNames = Sequence[str] | Mapping[int | str, str]
OBJECT_ALIASES = {
    "bbox": ("bbox", "bboxes", "boxes", "box", "bounding_box", "bounding_boxes"),
    "category": (
        *("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes"),
        *("class_id", "class_ids", "class_labels", "class_label", "name", "names"),
    ),
    "area": ("area", "areas"),
    "iscrowd": ("iscrowd", "is_crowd", "crowd"),
    "id": ("id", "ids", "bbox_id", "annotation_id", "annotation_ids", "object_id"),
}
PICTURE_ALIASES = {
    "image": ("image", "img", "picture", "photo", "jpg", "png", "file_name", "image_path", "path"),
    "image_id": ("image_id", "img_id", "imageid", "id"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
REQUIRED = ("image", "bbox", "category")


@dataclass(frozen=True)
class Categories:
    """Classes of a set: `names` and the set's own `ids`, both in the order of the labels."""

    names: list[str]
    ids: list[int | str]

    @property
    def labels(self) -> dict[int | str, int]:
        """The label of each of the set's ids."""
        return {category_id: label for label, category_id in enumerate(self.ids)}


def read_categories(splits: Sequence[AnySet], path: str, class_names: ClassNames | None, source: str) -> Categories:
    """The classes of all splits together.

    Args:
        splits: with the same columns.
        path: of the column with categories.
        class_names: names by category id, or a list in the order of ids from 0; needed for a stream whose column has
            no names.
        source: named in errors.

    Raises:
        ValueError: the splits name their classes differently, or a stream does not name them.
    """
    if class_names is not None:
        named = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
        ids = sorted(named)
        return Categories([named[i] for i in ids], ids)
    declared = [class_names_of(leaf_paths(split.features)[path]) for split in splits]
    if declared[0] is not None:
        if any(names != declared[0] for names in declared):
            raise ValueError(f"The splits of {source} name their classes differently: {declared}.")
        return Categories(declared[0], list(range(len(declared[0]))))
    if any(isinstance(split, IterableDataset) for split in splits):
        raise ValueError(
            f"{source} does not name the classes of {path}, and a stream is not read through to collect them: "
            "give class_names=[…] (--class_names)."
        )
    found: set[int | str] = set()
    for split in splits:
        for batch in split.select_columns([path.split(".")[0]]).with_format(None).iter(batch_size=1000):
            rows = value_at(batch, path) if "." not in path else _nested(batch, path)
            if not all(isinstance(row, list | None) for row in rows):
                raise ValueError(f"{source} has no list of categories in {path}, but one for each picture.")
            categories = [category for row in rows for category in row or ()]
            if not all(isinstance(category, int | str | None) for category in categories):
                raise ValueError(f"{source} has categories in {path} that are neither integers nor texts.")
            found.update(categories)
    if None in found:
        raise ValueError(f"{source} has objects without a category in {path}: give each one, or leave the object out.")
    if len({isinstance(category, str) for category in found}) > 1:
        raise ValueError(f"{source} has categories of several kinds in {path}: {shown(list(found))}.")
    ids = sorted(found)
    return Categories([i if isinstance(i, str) else f"class {i}" for i in ids], ids)


def _nested(batch: Mapping[str, list], path: str) -> list:
    top, rest = path.split(".", 1)
    return [value_at({"row": row}, f"row.{rest}") for row in batch[top]]


def read_pictures(data: AnySet, columns: Mapping[str, str]) -> Iterator[AnnotatedPicture]:
    """The annotated pictures of a set, none of them decoded; one is opened for its size where no column has it."""
    image = columns["image"]
    needs_size = not {"width", "height"} <= columns.keys()
    needed = {path.split(".")[0] for name, path in columns.items() if name != "image" or needs_size}
    data = data.with_format(None)
    if needs_size and isinstance(data.features[image], Image):
        data = data.cast_column(image, Image(decode=False))
    for batch in data.select_columns(sorted(needed)).iter(batch_size=BATCH):
        for values in zip(*batch.values(), strict=True):
            yield read_picture(dict(zip(batch, values, strict=True)), columns)


def read_picture(example: Mapping[str, Any], columns: Mapping[str, str]) -> AnnotatedPicture:
    """One example, its picture not decoded (a path, or a dict of `path` and `bytes`) or absent."""
    value = {name: value_at(example, path) for name, path in columns.items() if path.split(".")[0] in example}
    image = value.pop("image", None)
    content, name = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, image)
    if {"width", "height"} <= value.keys():
        width, height = value["width"], value["height"]
    else:
        width, height = picture_size(content if content is not None else name)
    objects = {key: _objects(value.get(key), key, value.get("image_id")) for key in OBJECT_ALIASES}
    return AnnotatedPicture(
        image=name,
        image_id=value.get("image_id"),
        width=width,
        height=height,
        boxes=objects["bbox"] or [],
        categories=objects["category"] or [],
        areas=objects["area"],
        crowds=objects["iscrowd"],
        ids=objects["id"] if _integers(objects["id"]) else None,
    )


def _objects(values: Any, name: str, image_id: Any) -> Sequence | None:
    if values is not None and not isinstance(values, list):
        raise ValueError(
            f"image {shown(image_id)} has for {name} {shown(values, repr)}: give a list, one for each object."
        )
    return values


def _integers(values: Sequence | None) -> bool:
    return values is not None and all(isinstance(value, int) for value in values)


def guess_box_format(data: AnySet, columns: Mapping[str, str], source: str) -> FormatGuess:
    """The box format of pictures from all over a set, or of the first of a stream.

    Raises:
        ValueError: it cannot be told; see `detect_box_format`.
    """
    if isinstance(data, IterableDataset):
        sample = data.take(SAMPLE)
    else:
        sample = data.select(np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int))) if len(data) else data
    pictures = list(read_pictures(sample, columns))
    boxes = [box_of(box, picture) for picture in pictures for box in picture.boxes]
    sizes = [(picture.width, picture.height) for picture in pictures for _ in picture.boxes]
    areas = [area for picture in pictures for area in picture.areas or ()]
    usable = len(areas) == len(boxes) and None not in areas
    return detect_box_format(
        np.array(boxes), np.array(sizes), np.array(areas, dtype=np.float64) if usable else None, source
    )


def to_schema(
    data: AnySet, columns: Mapping[str, str], categories: Categories, box_format: str, first_id: int
) -> AnySet:
    """A set in the schema of `detection_features`; pictures are neither decoded nor copied.

    Those of a stream stay as they are stored, `{"path", "bytes"}`, so that what shuffles it holds files, not pixels.

    Args:
        data: the set.
        columns: as `find_columns` found them.
        categories: as `read_categories` found them.
        box_format: one of `BOX_FORMATS`.
        first_id: pictures without an integer id are numbered from here on; in a stream, by their content.

    Raises:
        ValueError: an object's category is none of the classes; the message names the image.
    """
    data = data.with_format(None)
    own_ids = has_integer_ids(data, columns)
    if isinstance(data, IterableDataset):
        return _stream_to_schema(data, columns, categories, box_format, own_ids)
    annotated = AnnotatedPictures()
    for picture in read_pictures(data, columns):
        annotated.add(picture)
    ids = list(annotated.image_ids) if own_ids else list(range(first_id, first_id + len(annotated)))
    indices = None if data._indices is None else data._indices.column("indices").to_numpy()
    if indices is not None:
        annotated.add(AnnotatedPicture(None, None, 0, 0, [], []))
        ids.append(-1)
    table = annotated.to_arrow(categories.labels, box_format).append_column("image_id", pa.array(ids, pa.int64()))
    if indices is not None:
        # concatenated sets must have all their rows: the choice of rows is made again afterwards, which saves a copy of
        # the pictures; rows that are not chosen get the empty one
        rows = np.full(len(data.data), len(indices))
        rows[indices] = np.arange(len(indices))
        table = table.take(pa.array(rows))
        data = Dataset(data.data, info=data.info.copy(), split=data.split)
    annotations = to_dataset({}, table, annotation_features(categories.names))
    pictures = data.select_columns([columns["image"]])
    if columns["image"] != "image":
        pictures = pictures.rename_column(columns["image"], "image")
    if pictures.features["image"] != Image():
        pictures = pictures.cast_column("image", Image())
    both = concatenate_datasets([pictures, annotations], axis=1)
    return both if indices is None else both.select(indices)


def has_integer_ids(data: AnySet, columns: Mapping[str, str]) -> bool:
    """Whether the set has ids that need no replacement."""
    return "image_id" in columns and "int" in str(getattr(innermost(data.features[columns["image_id"]]), "dtype", ""))


def _stream_to_schema(
    data: IterableDataset, columns: Mapping[str, str], categories: Categories, box_format: str, own_ids: bool
) -> IterableDataset:
    image, labels = columns["image"], categories.labels

    def convert(example: dict) -> dict:
        picture = read_picture(example, columns)
        content = {"path": example[image], "bytes": None} if isinstance(example[image], str) else example[image]
        image_id = picture.image_id if own_ids else _id_of(content)
        return {"image": content, **canonical_example(picture, image_id, labels, box_format)}

    if isinstance(data.features[image], Image):
        data = data.cast_column(image, Image(decode=False))
    features = detection_features(categories.names)
    features["image"] = Image(decode=False)
    return data.map(convert, features=features, remove_columns=list(data.features))


def _id_of(picture: Mapping[str, Any] | None) -> int:
    content = (picture["bytes"] or picture["path"] or "") if picture else ""
    digest = hashlib.sha256(content.encode() if isinstance(content, str) else content).digest()
    return int.from_bytes(digest[:7], "big")


def leaf_paths(features: Features | Mapping) -> dict[str, Any]:
    """Every column and field of a set by its dotted path, such as `objects.bbox`, with its feature."""
    return dict(_leaves(features, ""))


def _leaves(feature: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(feature, Mapping):
        for name, inner in feature.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(getattr(feature, "feature", None), Mapping):  # a list of structs
        yield from _leaves(feature.feature, path)
    else:
        yield path, feature


def innermost(feature: Any) -> Any:
    """The feature within lists."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return feature


def find_columns(features: Features, given: Mapping[str, str] | None = None, source: str = "The set") -> dict[str, str]:
    """The dotted path of each field of the schema that the set has.

    Args:
        features: of the set.
        given: paths that are known, by the schema's names `image`, `image_id`, `width`, `height`, `bbox`, `category`,
            `area`, `iscrowd` and `id`.
        source: named in errors.

    Raises:
        ValueError: a given path or name does not exist, or pictures, boxes or classes are not found; the message lists
            the columns.
    """
    paths, given = leaf_paths(features), dict(given or {})
    listing = f"It has {', '.join(paths)}."
    for name, path in given.items():
        if name not in OBJECT_ALIASES | PICTURE_ALIASES:
            raise ValueError(f"columns has {name!r}, which is none of {', '.join(PICTURE_ALIASES | OBJECT_ALIASES)}.")
        if path not in paths:
            raise ValueError(f"{source} has no column {path!r} for {name}. {listing}")
    found = dict(given)
    pictures = [path for path, feature in paths.items() if isinstance(feature, Image)]
    if "image" not in found and len(pictures) == 1:
        found["image"] = pictures[0]
    for name, aliases in PICTURE_ALIASES.items():
        usable = {path: f for path, f in paths.items() if "." not in path and not hasattr(f, "feature")}
        if name == "image":
            usable = {path: f for path, f in usable.items() if isinstance(f, Image) or f == Value("string")}
        found.setdefault(name, _first(aliases, {path.lower(): path for path in usable}))
    if found.get("bbox") is None:
        lists = {path: f for path, f in paths.items() if hasattr(f, "feature")}
        found["bbox"] = _first(OBJECT_ALIASES["bbox"], {path.split(".")[-1].lower(): path for path in lists})
    if found["bbox"] is not None:
        # the others are beside the boxes
        parent = found["bbox"].rpartition(".")[0]
        beside = {
            path.rpartition(".")[2].lower(): path
            for path, feature in paths.items()
            if path.rpartition(".")[0] == parent and (parent or hasattr(feature, "feature"))
        }
        for name, aliases in OBJECT_ALIASES.items():
            found.setdefault(name, _first(aliases, beside))
    missing = [name for name in REQUIRED if found.get(name) is None]
    if missing:
        raise ValueError(
            f"{source} has no column that looks like {' or '.join(missing)}. {listing} "
            f"Say which it is, as in columns={{{missing[0]!r}: 'objects.{missing[0]}'}} (--columns {missing[0]}=…)."
        )
    return {name: path for name, path in found.items() if path is not None}


def _first(aliases: tuple[str, ...], paths: Mapping[str, str]) -> str | None:
    return next((paths[alias] for alias in aliases if alias in paths), None)


def value_at(example: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, through structs of lists and lists of structs alike.

    >>> value_at({"objects": [{"bbox": 1}, {"bbox": 2}]}, "objects.bbox"), value_at({"a": {"b": [3]}}, "a.b")
    ([1, 2], [3])
    """
    value: Any = example
    for name in path.split("."):
        value = [_field(item, name) for item in value] if isinstance(value, list) else _field(value, name)
    return value


def _field(value: Mapping[str, Any] | None, name: str) -> Any:
    return None if value is None else value[name]


def class_names_of(feature: Any) -> list[str] | None:
    """Names of a `ClassLabel`, at whatever depth of lists; None for other features."""
    label = innermost(feature)
    return list(label.names) if isinstance(label, ClassLabel) and label.names else None
