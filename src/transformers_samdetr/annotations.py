"""COCO annotations of a picture, checked one by one, to the labels that the loss reads: NumPy on a few numbers."""

import math
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np

LARGEST_AREA = 2.0**63
"""In pixels: far beyond any picture, and far from the end of float32."""


def integer_keys(name: str, mapping: Mapping | None, integer_values: bool = False) -> dict | None:
    """The mapping with integer keys, which JSON has turned to strings, and with integer values on request.

    >>> integer_keys("id2label", {"7": "cat"})
    {7: 'cat'}
    """
    if mapping is None:
        return None
    try:
        return {int(key): int(value) if integer_values else value for key, value in mapping.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        values = "integer labels" if integer_values else "names"
        raise ValueError(f"{name}={shown(mapping)} must be a dict of integer ids to {values}.") from error


def check_batch(annotations: Any, num_images: int) -> list[Mapping]:
    """One annotation dict per image, or a ValueError; a single dict stands for a single image."""
    batch = [annotations] if isinstance(annotations, Mapping) else annotations
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        raise ValueError(f"annotations must be a dict, or a list of dicts, one per image, not {_kind(annotations)}.")
    if len(batch) != num_images:
        raise ValueError(f"{num_images} images but {len(batch)} annotations: give one dict each, also without objects.")
    expected = "{'image_id': int, 'annotations': [{'bbox': [x, y, width, height], 'category_id': int, ...}, ...]}"
    for index, target in enumerate(batch):
        if not isinstance(target, Mapping):
            given = f"{_kind(target)} ({shown(target)})"
            raise ValueError(f"The annotation of the image at position {index} is {given}, expected {expected}.")
    return list(batch)


def labels_from_coco(
    target: Mapping,
    image_size: tuple[int, int],
    resized_size: tuple[int, int],
    normalise: bool = True,
    category_id_to_label: Mapping[int, int] | None = None,
    id2label: Mapping[int, str] | None = None,
) -> dict[str, np.ndarray]:
    """The labels of one image from its COCO annotation.

    Boxes are clipped to the picture. Crowd regions and boxes without an area are left out, and with them their class,
    area and id, so that all arrays of the result keep describing the same `T` objects.

    Args:
        target: `{"image_id": int, "annotations": [...]}`; each object has `bbox` (x, y, width, height, in pixels of the
            picture as displayed, EXIF orientation applied) and `category_id`, and may have `area` (pixels², otherwise
            that of the clipped box), `iscrowd` (otherwise 0) and `id`.
        image_size, resized_size: height and width of the displayed picture, and after resizing, in pixels.
        normalise: boxes as (center x, center y, width, height) in [0, 1] of the *unpadded* picture, the unit of the
            model's predictions; otherwise as (x1, y1, x2, y2) in pixels of the resized picture.
        category_id_to_label, id2label: as of the image processors.

    Returns:
        `class_labels` `(T,)` int64, `boxes` `(T, 4)` float32, `area` `(T,)` float32 in pixels² of the resized picture,
        `iscrowd` `(T,)` int64, `annotation_ids` `(T,)` int64 (-1 without an id), `image_id` `(1,)`,
        `orig_size` `(2,)` and `size` `(2,)` (heights and widths before and after resizing), int64. Where an annotation
        does not fit, a ValueError has the image's id, the box, and what would be right.
    """
    image_id, objects = _read_target(target)
    where = f"Image {image_id}, annotation"
    parsed = [read_object(obj, f"{where} {i}", category_id_to_label, id2label) for i, obj in enumerate(objects)]

    def column(field: str, dtype: type) -> np.ndarray:
        return np.array([entry[field] for entry in parsed], dtype=dtype)

    boxes = column("bbox", np.float64).reshape(-1, 4)  # (T, 4): x y w h
    (height, width), (new_height, new_width) = image_size, resized_size
    limits = np.array([width, height], dtype=np.float64)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).clip(0, np.tile(limits, 2))
    sides = corners[:, 2:] - corners[:, :2]  # (T, 2): w h
    area = column("area", np.float64)
    area = np.where(np.isnan(area), sides.prod(axis=1), area)
    if normalise:
        # ratios of the displayed picture: the resized one has them too, up to the rounding of its sides
        placed = np.concatenate([(corners[:, :2] + corners[:, 2:]) / (2 * limits), sides / limits], axis=1)
    else:
        placed = corners * np.tile([new_width / width, new_height / height], 2)
    # a side that is lost in float32 is none
    keep = ~column("iscrowd", bool) & ((sides / limits).astype(np.float32) > 0).all(axis=1)
    return {
        "image_id": np.array([image_id], dtype=np.int64),
        "class_labels": column("label", np.int64)[keep],
        "boxes": placed.astype(np.float32)[keep],
        "area": (area * (new_height / height) * (new_width / width)).astype(np.float32)[keep],
        "iscrowd": np.zeros(int(keep.sum()), dtype=np.int64),
        # in every picture, since Trainer.evaluate concatenates the labels of all batches key by key
        "annotation_ids": column("id", np.int64)[keep],
        "orig_size": np.array(image_size, dtype=np.int64),
        "size": np.array(resized_size, dtype=np.int64),
    }


def _read_target(target: Mapping) -> tuple[int, Sequence]:
    """The id and the objects of an image."""
    if "image_id" not in target:
        raise ValueError(f"An annotation has no 'image_id', only {shown(list(target))}: add its image's integer id.")
    image_id = _integer(target["image_id"])
    if image_id is None:
        problem = f"image_id={shown(target['image_id'], repr)} must be an integer of at most 64 bits"
        raise ValueError(f"{problem}: number the images, and keep their names.")
    where = f"Image {target['image_id']}"
    if "annotations" not in target:
        hint = "; 'objects' of a Hub data set hold lists, make one dict per object" if "objects" in target else ""
        raise ValueError(f"{where}: no key 'annotations', only {shown(list(target))}: give its list of objects{hint}.")
    objects = target["annotations"]
    if not isinstance(objects, Sequence) or isinstance(objects, str):
        raise ValueError(f"{where}: 'annotations' is {_kind(objects)} ({shown(objects)}), expected a list of dicts.")
    return image_id, objects


def read_object(
    obj: Any,
    where: str,
    category_id_to_label: Mapping[int, int] | None,
    id2label: Collection[int] | None,
) -> dict[str, Any]:
    """Checked `bbox`, `label`, `area` (NaN where missing), `iscrowd` and `id` (-1 where missing) of one object.

    `where` is what errors call it; `id2label` has the labels that are known.
    """

    def refuse(problem: str, remedy: str) -> NoReturn:
        raise ValueError(f"{where} {problem}: {remedy}.")

    def refuse_value(key: str, remedy: str) -> NoReturn:
        refuse(f"has {key} {shown(obj[key], repr)}", remedy)

    if not isinstance(obj, Mapping):
        refuse(f"is {_kind(obj)} ({shown(obj)})", "give the annotation's dict itself, not its id")
    if "bbox" in obj:
        where = f"{where} (bbox {shown(obj['bbox'])})"
    for key in ("bbox", "category_id"):
        if obj.get(key) is None:
            refuse(f"has no {key!r}, only {shown(list(obj))}", f"add its {key!r} or leave the object out")
    area, crowd, identity = math.nan, False, -1
    if obj.get("area") is not None:
        area = _number(obj["area"])
        if area is None or not 0 <= area <= LARGEST_AREA:  # so that NaN fails too
            refuse_value("area", "give a number of pixels >= 0, or no area for that of the box")
    if obj.get("iscrowd") is not None:
        crowd = _integer(obj["iscrowd"], allow_bool=True)
        if crowd not in (0, 1):
            refuse_value("iscrowd", "give 0 for one object, 1 for a crowd region")
    if obj.get("id") is not None:
        identity = _integer(obj["id"])
        if identity is None:
            refuse_value("id", "give an integer of at most 64 bits or no id")

    bbox = obj["bbox"].tolist() if hasattr(obj["bbox"], "tolist") else obj["bbox"]
    numbers = [_number(value) for value in bbox] if isinstance(bbox, Sequence) else []
    if len(numbers) != 4 or None in numbers:
        refuse("must have four numbers", "give [x, y, width, height] in pixels")
    if not all(map(math.isfinite, numbers)):
        refuse("is not finite", "correct the box or leave the object out")
    if min(numbers[2:]) < 0:
        remedy = "COCO boxes are [x, y, width, height], of corners that is [x1, y1, x2 - x1, y2 - y1]"
        refuse("has a negative width or height", remedy)

    label = _integer(obj["category_id"])
    if label is None:
        refuse_value("category_id", "give the integer id (of at most 64 bits), not the name of the category")
    if category_id_to_label is not None:
        if label not in category_id_to_label:
            known = shown(sorted(category_id_to_label))
            refuse(f"has category_id {label}, which is not in category_id_to_label {known}", "add it or drop it")
        label = category_id_to_label[label]
    if label < 0:
        refuse_value("category_id", "labels start at 0: set category_id_to_label")
    if id2label is not None and label not in id2label:
        remedy = "map category ids that are no labels first (category_id_to_label), or name all classes"
        refuse(f"has label {label}, which is not in id2label {shown(sorted(id2label))}", remedy)
    return {"bbox": numbers, "label": label, "area": area, "iscrowd": bool(crowd), "id": identity}


def _number(value: Any) -> float | None:
    value = _unwrapped(value)
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _integer(value: Any, allow_bool: bool = False) -> int | None:
    """None for what is no integer, or none that a tensor holds."""
    value = _unwrapped(value)
    if not isinstance(value, Integral) or isinstance(value, bool) and not allow_bool:
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _unwrapped(value: Any) -> Any:
    """The number in an array or tensor of one element."""
    return value.item() if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1 else value


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 20
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: Any, text_of: Callable[[Any], str] = str, limit: int = 120) -> str:
    """A value for a message, cut where it is long. Containers are cut first: their whole text could fill the memory."""
    try:
        text = _SHORT.repr(value) if isinstance(value, list | tuple | dict | set | frozenset) else text_of(value)
    except ValueError:  # an integer of thousands of digits
        return f"of type {type(value).__name__}, too large to show"
    return text if len(text) <= limit else f"{text[:limit]}..."
