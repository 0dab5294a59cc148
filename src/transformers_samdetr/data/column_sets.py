"""Sets of the `datasets` library, whatever their columns, in the package's schema without decoding a picture."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array2D, ClassLabel, Dataset, Features, Image, IterableDataset, Value, concatenate_datasets

from ..annotations import shown
from .box_formats import FormatGuess, detect_box_format, four_columns
from .schema import AnnotatedPicture, AnnotatedPictures, AnySet, box_of, detection_features, to_dataset
from .source_files import picture_size

BATCH = 1000
SAMPLE = 300  # pictures on which the box format is detected
ClassNames = Sequence[str] | Mapping[int | str, str]
OBJECT_ALIASES = {
    "bbox": ("bbox", "bboxes", "boxes", "box", "bounding_box", "bounding_boxes"),
    "category": (
        *("category", "categories", "category_id", "category_ids", "label", "labels", "class", "classes"),
        *("class_id", "class_ids", "class_labels", "class_label", "name", "names"),
        *("class_name", "category_name", "label_name"),
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


def find_columns(features: Features, given: Mapping[str, str] | None = None, source: str = "The set") -> dict[str, str]:
    """The dotted path of each field of the schema that a set has, by the names in the tables of aliases.

    Four columns that hold the boxes together are joined by commas. A ValueError lists the columns.
    """
    paths, found = leaf_paths(features), dict(given or {})
    listing = f"It has {', '.join(paths)}."
    for name, path in found.items():
        if name not in OBJECT_ALIASES | PICTURE_ALIASES:
            raise ValueError(f"columns has {name!r}, which is none of {', '.join(PICTURE_ALIASES | OBJECT_ALIASES)}.")
        if not paths.keys() >= set(_parts(name, path)):
            raise ValueError(f"{source} has no column {path!r} for {name}. {listing}")

    def first(aliases: Sequence[str], candidates: Sequence[str]) -> str | None:
        by_name = {path.rpartition(".")[2].lower(): path for path in candidates}
        return next((by_name[alias] for alias in aliases if alias in by_name), None)

    lists = [path for path, feature in paths.items() if hasattr(feature, "feature") or isinstance(feature, Array2D)]
    plain = [path for path in paths if "." not in path and path not in lists]
    pictures = [path for path, feature in paths.items() if isinstance(feature, Image)]
    named = [path for path in plain if isinstance(paths[path], Image) or paths[path] == Value("string")]
    found.setdefault("image", pictures[0] if len(pictures) == 1 else first(PICTURE_ALIASES["image"], named))
    for name in ("image_id", "width", "height"):
        found.setdefault(name, first(PICTURE_ALIASES[name], plain))
    found.setdefault("bbox", first(OBJECT_ALIASES["bbox"], lists))

    def beside(parent: str) -> list[str]:
        return [path for path in paths if path.rpartition(".")[0] == parent and (parent or path in lists)]

    if found["bbox"] is None:
        parents = dict.fromkeys(path.rpartition(".")[0] for path in paths)
        found["bbox"] = next((",".join(four) for four, _ in map(four_columns, map(beside, parents)) if four), None)
    is_one_box = isinstance(getattr(features.get(found["bbox"]), "feature", None), Value)
    if found["bbox"] is not None and not is_one_box:  # the others are beside the boxes
        parent = found["bbox"].split(",")[0].rpartition(".")[0]
        for name, aliases in OBJECT_ALIASES.items():
            found.setdefault(name, first(aliases, beside(parent)))
    elif four := [found["bbox"]] if is_one_box else four_columns(plain)[0]:
        where = "this column" if is_one_box else "each of these columns"
        remedy = f"make one row of each picture, with a list in {where}, or give the table as a CSV file"
        raise ValueError(f"{source} has one object a row, with its box in {', '.join(four)}: {remedy}.")
    missing = [name for name in ("image", "bbox", "category") if found.get(name) is None]
    if missing:
        remedy = f"as in columns={{{missing[0]!r}: 'objects.{missing[0]}'}} (--columns {missing[0]}=…)"
        problem = f"{source} has no column that looks like {' or '.join(missing)}"
        raise ValueError(f"{problem}. {listing} Say which it is, {remedy}.")
    return {name: path for name, path in found.items() if path is not None}


def with_pictures(data: AnySet) -> AnySet:
    """The set with columns of encoded pictures, such as pandas writes them, as columns of pictures."""
    data = data._resolve_features() if data.features is None else data  # the first examples of a stream tell them
    for name, feature in data.features.items():
        is_file = isinstance(feature, Mapping) and feature.keys() == {"bytes", "path"}
        if is_file or feature in (Value("binary"), Value("large_binary")):
            data = data.cast_column(name, Image())
    return data


def _parts(name: str, path: str) -> list[str]:
    return path.split(",") if name == "bbox" else [path]


def leaf_paths(features: Features | Mapping, above: str = "") -> dict[str, Any]:
    """Every column and field of a set by its dotted path, such as `objects.bbox`, with its feature."""
    paths = {}
    for name, feature in features.items():
        inner = feature if isinstance(feature, Mapping) else getattr(feature, "feature", None)
        is_struct = isinstance(inner, Mapping)  # or a list of structs
        paths |= leaf_paths(inner, f"{above}{name}.") if is_struct else {above + name: feature}
    return paths


def innermost(feature: Any) -> Any:
    """The feature within lists."""
    return innermost(feature.feature) if hasattr(feature, "feature") else feature


def value_at(example: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, through structs of lists and lists of structs alike; None below None.

    >>> value_at({"objects": [{"bbox": 1}, {"bbox": 2}]}, "objects.bbox"), value_at({"a": {"b": [3]}}, "a.b")
    ([1, 2], [3])
    """
    value: Any = example
    for name in path.split("."):
        if isinstance(value, list):
            value = [None if item is None else item[name] for item in value]
        elif value is not None:
            value = value[name]
    return value


def read_categories(splits: list[AnySet], path: str, class_names: ClassNames | None, source: str) -> dict[Any, str]:
    """The classes of all splits together: the name of each of the set's own ids, in the order of the labels.

    `class_names` are by id, or in the order of ids from 0.
    """
    if class_names is not None:
        return dict(sorted(class_names.items() if isinstance(class_names, Mapping) else enumerate(class_names)))
    labels = [innermost(leaf_paths(split.features)[path]) for split in splits]
    declared = [list(label.names or ()) if isinstance(label, ClassLabel) else [] for label in labels]
    if declared[0]:
        if any(names != declared[0] for names in declared):
            raise ValueError(f"The splits of {source} name their classes differently: {declared}.")
        return dict(enumerate(declared[0]))
    if any(isinstance(split, IterableDataset) for split in splits):
        problem = f"{source} does not name the classes of {path}, and a stream is not read through to collect them"
        raise ValueError(f"{problem}: give class_names=[…] (--class_names).")
    found: set[int | str] = set()
    top = path.split(".")[0]
    for batch in (b for split in splits for b in split.select_columns([top]).with_format(None).iter(batch_size=BATCH)):
        for row in (value_at({top: value}, path) for value in batch[top]):
            if not isinstance(row, list | None):
                raise ValueError(f"{source} has no list of categories in {path}, but one for each picture.")
            if not all(isinstance(category, int | str | None) for category in row or ()):
                raise ValueError(f"{source} has categories in {path} that are neither integers nor texts.")
            found.update(row or ())
    if None in found:
        raise ValueError(f"{source} has objects without a category in {path}: give each one, or leave the object out.")
    if len({isinstance(category, str) for category in found}) > 1:
        raise ValueError(f"{source} has categories of several kinds in {path}: {shown(list(found))}.")
    return {i: i if isinstance(i, str) else f"class {i}" for i in sorted(found)}


def read_pictures(data: AnySet, columns: Mapping[str, str]) -> Iterator[AnnotatedPicture]:
    """The annotated pictures of a set, none of them decoded; one is opened for its size where no column has it."""
    image = columns["image"]
    needs_size = not {"width", "height"} <= columns.keys()
    paths = [(name, path) for name, path in columns.items() if name != "image" or needs_size]
    data = data.with_format(None)
    if needs_size and isinstance(data.features[image], Image):
        data = data.cast_column(image, Image(decode=False))
    needed = sorted({part.split(".")[0] for name, path in paths for part in _parts(name, path)})
    for batch in data.select_columns(needed).iter(batch_size=BATCH):
        for values in zip(*batch.values(), strict=True):
            yield read_picture(dict(zip(batch, values, strict=True)), columns)


def read_picture(example: Mapping[str, Any], columns: Mapping[str, str]) -> AnnotatedPicture:
    """One example, its picture not decoded (a path, or a dict of `path` and `bytes`) or absent."""
    value = {}
    for name, path in columns.items():
        parts = [value_at(example, part) for part in _parts(name, path) if part.split(".")[0] in example]
        value[name] = parts[0] if len(parts) == 1 else parts or None
    wrong = [key for key in OBJECT_ALIASES if not isinstance(value.get(key), list | None)]
    if "," in columns["bbox"]:
        sides = [side for side in value["bbox"] if side is not None]
        is_whole = len(sides) in (0, len(value["bbox"])) and all(isinstance(side, list) for side in sides)
        if is_whole and len(set(map(len, sides))) <= 1:
            value["bbox"] = list(map(list, zip(*sides, strict=True)))
        else:
            wrong.append("bbox")
    if wrong:
        key = wrong[0]
        where = f"image {shown(value.get('image_id'))} has for {columns[key]} {shown(value[key], repr)}"
        raise ValueError(f"{where}: give a list, one for each object.")
    image, ids = value.get("image"), value.get("id")
    content, name = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, image)
    has_size = {"width", "height"} <= columns.keys()
    size = (value["width"], value["height"]) if has_size else picture_size(name if content is None else content)
    ids = ids if ids is not None and all(isinstance(identity, int) for identity in ids) else None
    boxes, categories = value["bbox"] or [], value["category"] or []
    more = {"areas": value.get("area"), "crowds": value.get("iscrowd"), "ids": ids}
    return AnnotatedPicture(name, value.get("image_id"), *size, boxes, categories, **more)


def guess_box_format(data: AnySet, columns: Mapping[str, str], source: str) -> FormatGuess:
    """`detect_box_format` for pictures from all over a set, or the first of a stream."""
    if isinstance(data, IterableDataset):
        sample = data.take(SAMPLE)
    else:
        sample = data.select(np.unique(np.linspace(0, len(data) - 1, SAMPLE).astype(int))) if len(data) else data
    pictures = list(read_pictures(sample, columns))
    boxes = [box_of(box, picture) for picture in pictures for box in picture.boxes]
    sizes = [(picture.width, picture.height) for picture in pictures for _ in picture.boxes]
    areas = [area for picture in pictures for area in picture.areas or ()]
    usable = len(areas) == len(boxes) and None not in areas
    areas = np.array(areas, dtype=np.float64) if usable else None
    formats = four_columns(columns["bbox"].split(","))[1]
    return detect_box_format(np.array(boxes), np.array(sizes), areas, source, formats)


def has_integer_ids(data: AnySet, columns: Mapping[str, str]) -> bool:
    return "image_id" in columns and "int" in str(getattr(innermost(data.features[columns["image_id"]]), "dtype", ""))


def to_schema(
    data: AnySet, columns: Mapping[str, str], categories: Mapping[int | str, str], box_format: str, first_id: int
) -> AnySet:
    """A set in the schema of `detection_features`; pictures are neither decoded nor copied.

    Those of a stream stay as they are stored, `{"path", "bytes"}`, so that what shuffles it holds files, not pixels.
    Pictures without an integer id are numbered from `first_id` on; in a stream, by their content. Raises a ValueError
    that names the image where an object's category is none of the classes.
    """
    data, image, own_ids = data.with_format(None), columns["image"], has_integer_ids(data, columns)
    labels, names = {category: label for label, category in enumerate(categories)}, list(categories.values())
    if isinstance(data, IterableDataset):

        def convert(example: dict) -> dict:
            picture = read_picture(example, columns)
            content = {"path": example[image], "bytes": None} if isinstance(example[image], str) else example[image]
            file = (content["bytes"] or (content["path"] or "").encode()) if content else b""
            image_id = picture.image_id if own_ids else int.from_bytes(hashlib.sha256(file).digest()[:7], "big")
            one = AnnotatedPictures()
            one.add(picture)
            return {"image": content, "image_id": image_id, **one.to_arrow(labels, box_format).to_pylist()[0]}

        if isinstance(data.features[image], Image):
            data = data.cast_column(image, Image(decode=False))
        features = detection_features(names)
        features["image"] = Image(decode=False)
        return data.map(convert, features=features, remove_columns=list(data.features))
    annotated = AnnotatedPictures()
    for picture in read_pictures(data, columns):
        annotated.add(picture)
    ids = list(annotated.image_ids) if own_ids else list(range(first_id, first_id + len(annotated)))
    table = annotated.to_arrow(labels, box_format).append_column("image_id", pa.array(ids, pa.int64()))
    indices = None if data._indices is None else data._indices.column("indices").to_numpy()
    if indices is not None:
        # concatenated sets must have all their rows: the choice of rows is made again afterwards, which saves a copy of
        # the pictures; rows that are not chosen are null
        rows = np.full(len(data.data), -1)
        rows[indices] = np.arange(len(indices))
        table = table.take(pa.array(rows, mask=rows < 0))
        data = Dataset(data.data, info=data.info.copy(), split=data.split)
    pictures = data.select_columns([image])
    if image != "image":
        pictures = pictures.rename_column(image, "image")
    if pictures.features["image"] != Image():
        pictures = pictures.cast_column("image", Image())
    features = Features({name: feature for name, feature in detection_features(names).items() if name != "image"})
    both = concatenate_datasets([pictures, to_dataset({}, table, features)], axis=1)
    return both if indices is None else both.select(indices)
