"""Folders in the layout of Ultralytics' YOLO: `data.yaml`, `images/`, `labels/`."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from .annotated_picture import AnnotatedPicture, FolderContent, picture_size

SPLITS = ("train", "val", "valid", "validation", "test")
NAME_FILES = ("classes.txt", "obj.names", "labels.txt")


def find_yolo(source: Path) -> Path | None:
    """The YAML file of a folder, or the folder itself where names are in `classes.txt`; None for other layouts."""
    if source.is_file():
        return source if source.suffix in (".yaml", ".yml") else None
    for path in sorted((*source.glob("*.yaml"), *source.glob("*.yml"))):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "names" in content and "train" in content:
            return path
    has_labels = (source / "labels").is_dir() and next((source / "labels").rglob("*.txt"), None) is not None
    return source if has_labels else None


def read_yolo(source: Path) -> FolderContent:
    """Pictures and labels that a YAML file, or a folder without one, describes.

    A picture's labels are in the file of its name with `labels` for the last `images` of its path; without one it has
    no objects. A line is a class and a box (center x, center y, width, height) or the corners of a polygon, as shares
    of the picture; of a polygon the box around it is taken.

    Args:
        source: as `find_yolo` found it.

    Raises:
        ValueError: classes are not named, a folder is missing, or a line does not fit; the message names the file.
    """
    if source.is_dir():
        names, folders = _names_of_folder(source), _folders_within(source / "images")
    else:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        names = _names(content, source)
        folders = {
            split: [_resolve(source, content, entry) for entry in _as_list(content[split])]
            for split in SPLITS
            if content.get(split)
        }
    splits = {
        split: [_picture(image, names) for entry in entries for image in _images(entry)]
        for split, entries in folders.items()
    }
    empty = [split for split, pictures in splits.items() if not pictures]
    if empty or not splits:
        raise ValueError(
            f"{source}: no pictures in {', '.join(str(e) for s in empty for e in folders[s]) or 'images'}."
        )
    return FolderContent(splits, dict(names), "cxcywh_normalised", [])


def _names(content: dict[str, Any], source: Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, dict) and all(isinstance(key, int) for key in names):
        return {key: str(names[key]) for key in sorted(names)}
    if isinstance(names, list) and names:
        return dict(enumerate(map(str, names)))
    raise ValueError(f"{source} has names={names!r}: give a list of class names, or a mapping of class number to name.")


def _names_of_folder(source: Path) -> dict[int, str]:
    for folder in (source, source / "labels"):
        for file in NAME_FILES:
            if (folder / file).is_file():
                lines = (folder / file).read_text(encoding="utf-8").splitlines()
                return dict(enumerate(line.strip() for line in lines if line.strip()))
    raise ValueError(
        f"{source} has labels but does not name the classes: add a data.yaml with `train: images` and `names: [...]`, "
        "or a classes.txt with a name a line."
    )


def _folders_within(images: Path) -> dict[str, list[Path]]:
    found = {split: [images / split] for split in SPLITS if (images / split).is_dir()}
    return found or {"": [images]}


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _resolve(source: Path, content: dict[str, Any], entry: str) -> Path:
    """A path of the YAML file, which tools write relative to several places."""
    base, entry_path = Path(content.get("path") or "."), Path(entry)
    without_parents = Path(*[part for part in entry_path.parts if part not in ("..", ".")])
    candidates = [
        source.parent / base / entry_path,
        source.parent / entry_path,
        source.parent / without_parents,  # Roboflow writes ../train/images for train/images
        base / entry_path,
    ]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise ValueError(f"{source} names {entry!r}, which is not at {candidates[0]} or {candidates[1]}.")
    return found


def _images(entry: Path) -> list[Path]:
    """Pictures of a folder, or of a text file with a path a line."""
    if entry.is_file():
        lines = [line.strip() for line in entry.read_text(encoding="utf-8").splitlines()]
        return [path if (path := Path(line)).is_absolute() else entry.parent / path for line in lines if line]
    known = Image.registered_extensions()
    return sorted(path for path in entry.rglob("*") if path.suffix.lower() in known)


def _picture(image: Path, names: dict[int, str]) -> AnnotatedPicture:
    boxes, categories = [], []
    labels = _label_file(image)
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines() if labels.is_file() else [], 1):
        if not line.strip():
            continue
        category, box = _parse(line, f"{labels}, line {number} ({line.strip()[:60]!r})")
        if category not in names:
            raise ValueError(
                f"{labels}, line {number}, of {image.name}: class {category} is none of the named {list(names)[:20]}."
            )
        boxes.append(box)
        categories.append(category)
    width, height = picture_size(str(image))
    return AnnotatedPicture(str(image), None, width, height, boxes, categories)


def _label_file(image: Path) -> Path:
    parts = list(image.parts[:-1])
    places = [index for index, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts, image.stem + ".txt")


def _parse(line: str, where: str) -> tuple[int, list[float]]:
    try:
        values = [float(value) for value in line.split()]
    except ValueError as error:
        raise ValueError(f"{where}: not numbers.") from error
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0) or values[0] != int(values[0]):
        raise ValueError(
            f"{where}: give the class, an integer, and center x, center y, width and height, or corners of a polygon, "
            "as shares of the picture."
        )
    if len(values) == 5:
        return int(values[0]), values[1:]
    corners = np.array(values[1:]).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    return int(values[0]), [*((low + high) / 2).tolist(), *(high - low).tolist()]
