"""Where detection data come from: the digit scenes, a COCO folder, or a `datasets` set, all in one schema."""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, load_dataset, load_from_disk

from .digit_scenes import build_digit_scenes
from .schema import category_names, detection_features


def load_detection_data(source: str, seed: int = 0) -> tuple[Dataset, Dataset, list[str]]:
    """Training set, evaluation set and class names of a source.

    Args:
        source: `"digits"`; a folder in COCO's layout (`images/`, `annotations/instances_train.json`, `…_val.json`); a
            folder of `save_to_disk`; or the name of a set on the Hub with the schema of `detection_features`.
        seed: chooses the digit scenes.

    Returns:
        Both sets in the schema of `detection_features`. Pictures are decoded when they are read, not before.

    Raises:
        ValueError: the source lacks a split, a file or a field; the message says which, and what would be right.
    """
    if source == "digits":
        return _splits_of(build_digit_scenes(seed=seed), source)
    folder = Path(source)
    if (folder / "annotations").is_dir():
        return _read_coco(folder)
    if folder.is_dir():
        return _splits_of(load_from_disk(folder), source)
    if folder.suffix or source.startswith((".", "/", "~")):
        raise ValueError(f"There is no data set at {source}; give an existing folder, a Hub name, or 'digits'.")
    return _splits_of(load_dataset(source), source)


def _splits_of(data: DatasetDict, source: str) -> tuple[Dataset, Dataset, list[str]]:
    evaluation = next((name for name in ("validation", "val", "test") if name in data), None)
    if "train" not in data or evaluation is None:
        raise ValueError(f"{source} has the splits {sorted(data)}; `train` and `validation` are needed.")
    try:
        names = category_names(data["train"].features)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{source} has the columns {list(data['train'].features)}; needed are image, image_id, width, height and "
            "objects with id, area, bbox, category (class labels)."
        ) from error
    features = detection_features(names)
    train, evaluation_set = (_add_crowd(data[name], features) for name in ("train", evaluation))
    return train, evaluation_set, names


def _add_crowd(data: Dataset, features: Features) -> Dataset:
    """Sets on the Hub often lack `iscrowd`; without it an object is none."""
    if "iscrowd" in data.features["objects"]:
        return data

    def add(objects: dict) -> dict:
        return {"objects": {**objects, "iscrowd": [0] * len(objects["category"])}}

    columns = [name for name in data.column_names if name not in features]
    return data.map(add, input_columns="objects", features=features, remove_columns=columns)


def _read_coco(folder: Path) -> tuple[Dataset, Dataset, list[str]]:
    contents = {split: _read_json(folder / "annotations" / f"instances_{split}.json") for split in ("train", "val")}
    categories = {c["id"]: c["name"] for content in contents.values() for c in content["categories"]}
    labels = {category_id: label for label, category_id in enumerate(sorted(categories))}
    names = [categories[category_id] for category_id in sorted(categories)]
    features = detection_features(names)
    train, evaluation = (
        Dataset.from_list(_coco_examples(content, folder / "images", labels), features=features)
        for content in contents.values()
    )
    return train, evaluation, names


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; a COCO folder holds annotations/instances_train.json and instances_val.json."
        )
    content = json.loads(path.read_text())
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{path} has no {key!r}; it holds {sorted(content)}.")
    return content


def _coco_examples(content: dict, images: Path, labels: dict[int, int]) -> list[dict]:
    """Examples in the order of the file; pictures as paths, category ids as contiguous labels."""
    objects_of: dict[int, dict[str, list]] = {
        image["id"]: {"id": [], "area": [], "bbox": [], "category": [], "iscrowd": []} for image in content["images"]
    }
    for annotation in content["annotations"]:
        objects = objects_of.get(annotation["image_id"])
        if objects is None or annotation["category_id"] not in labels:
            raise ValueError(
                f"Annotation {annotation.get('id')} in {images.parent} names image {annotation['image_id']}, category "
                f"{annotation['category_id']}, one of which the file does not list."
            )
        width, height = annotation["bbox"][2:]
        objects["id"].append(annotation["id"])
        objects["area"].append(annotation.get("area", width * height))
        objects["bbox"].append(annotation["bbox"])
        objects["category"].append(labels[annotation["category_id"]])
        objects["iscrowd"].append(annotation.get("iscrowd", 0))
    return [
        {
            "image": str(images / image["file_name"]),
            "image_id": image["id"],
            "width": image["width"],
            "height": image["height"],
            "objects": objects_of[image["id"]],
        }
        for image in content["images"]
    ]
