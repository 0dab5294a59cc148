"""Folders in the layout of Ultralytics' YOLO: `data.yaml`, `images/`, `labels/`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..annotations import shown
from ..pictures import PICTURE_SUFFIXES
from .schema import AnnotatedPicture, FolderContent, picture_size
from .source_files import read_text

SPLITS = ("train", "val", "valid", "validation", "test")
NAME_FILES = ("classes.txt", "obj.names", "labels.txt")


def find_yolo(source: Path) -> Path | None:
    """The YAML file of a folder, or the folder itself where names are in `classes.txt`; None for other layouts."""
    if source.is_file():
        return source if source.suffix in (".yaml", ".yml") else None
    for path in sorted((*source.glob("*.yaml"), *source.glob("*.yml"))):
        content = _read_yaml(path) if path.is_file() else None
        if isinstance(content, dict) and "names" in content and "train" in content:
            return path
    has_labels = (source / "labels").is_dir() and next((source / "labels").rglob("*.txt"), None) is not None
    return source if has_labels else None


class _PlainLoader(yaml.SafeLoader):
    """Without `<<`, which no data set needs: merges of merges grow without bound."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves `<<` as a key, which is then refused."""


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(read_text(path), Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date that does not exist
        raise ValueError(f"{path} is not valid YAML: {shown(error)}.") from error


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
        content = _read_yaml(source)
        if not isinstance(content, dict):
            raise ValueError(f"{source} holds {shown(content, repr)}: give `train`, `val` and `names`.")
        names = _names(content, source)
        folders = {
            split: [_resolve(source, content, entry) for entry in _as_list(content[split], split, source)]
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
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict) and names:
        numbered = all(isinstance(key, int) and abs(key) < 2**31 for key in names)
        if numbered and all(isinstance(name, (str, int, float)) for name in names.values()):
            return {key: str(names[key]) for key in sorted(names)}
    raise ValueError(
        f"{source} has names={shown(content.get('names'), repr)}: give a list of class names, or a mapping of class "
        "number to name."
    )


def _names_of_folder(source: Path) -> dict[int, str]:
    for folder in (source, source / "labels"):
        for file in NAME_FILES:
            if (folder / file).is_file():
                lines = read_text(folder / file).splitlines()
                return dict(enumerate(line.strip() for line in lines if line.strip()))
    raise ValueError(
        f"{source} has labels but does not name the classes: add a data.yaml with `train: images` and `names: [...]`, "
        "or a classes.txt with a name a line."
    )


def _folders_within(images: Path) -> dict[str, list[Path]]:
    found = {split: [images / split] for split in SPLITS if (images / split).is_dir()}
    return found or {"": [images]}


def _as_list(value: Any, split: str, source: Path) -> list[str]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError(f"{source} has for {split} a {type(value).__name__}: give a path, or a list of paths.")
    return entries


def _resolve(source: Path, content: dict[str, Any], entry: str) -> Path:
    """A path of the YAML file, which tools write relative to several places."""
    base, entry_path = content.get("path") or ".", Path(entry)
    if not isinstance(base, str):
        raise ValueError(f"{source} has for path a {type(base).__name__}: give the folder that the others are in.")
    without_parents = Path(*[part for part in entry_path.parts if part not in ("..", ".")])
    candidates = [
        source.parent / Path(base) / entry_path,
        source.parent / entry_path,
        source.parent / without_parents,  # Roboflow writes ../train/images for train/images
        Path(base) / entry_path,
    ]
    found = next((path for path in candidates if os.path.exists(path)), None)
    if found is None:
        raise ValueError(f"{source} names {shown(entry, repr)}, which is not at {candidates[0]} or {candidates[1]}.")
    return found


def _images(entry: Path) -> list[Path]:
    """Pictures of a folder, or of a text file with a path a line."""
    if entry.is_file():
        lines = [line.strip() for line in read_text(entry).splitlines()]
        return [path if (path := Path(line)).is_absolute() else entry.parent / path for line in lines if line]
    return sorted(path for path in entry.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def _picture(image: Path, names: dict[int, str]) -> AnnotatedPicture:
    boxes, categories = [], []
    labels = _label_file(image)
    for number, line in enumerate(read_text(labels).splitlines() if os.path.isfile(labels) else [], 1):
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
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0) or not values[0].is_integer():
        raise ValueError(
            f"{where}: give the class, an integer, and center x, center y, width and height, or corners of a polygon, "
            "as shares of the picture."
        )
    if len(values) == 5:
        return int(values[0]), values[1:]
    corners = np.array(values[1:]).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    return int(values[0]), [*((low + high) / 2).tolist(), *(high - low).tolist()]
