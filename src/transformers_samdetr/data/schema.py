"""The one form in which detection data travel through the package: that of COCO sets on the Hub."""

from typing import Any

from datasets import ClassLabel, Features, Image, List, Value


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
