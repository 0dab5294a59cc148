"""Which columns of a `datasets` set hold pictures, boxes and classes."""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import ClassLabel, Features, Image, Value

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
