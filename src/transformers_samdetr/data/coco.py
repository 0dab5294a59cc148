"""Folders with COCO's JSON files, in any of the layouts that tools export."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..annotations import shown
from .schema import AnnotatedPicture, FolderContent, box_of, picture_size, side_of
from .source_files import read_text

OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
SPLIT = re.compile(r"(?:^|[^a-z])(training|train|validation|valid|val|dev|testing|test)(?:[^a-z]|$)", re.IGNORECASE)
JSON_BYTES = 4096
"""Enough of a file to see whether it could be COCO's."""
KEYS = ("images", "annotations", "categories")


def find_coco_files(source: Path) -> dict[str, Path]:
    """COCO files of a folder by the split in their own or their folder's name, `""` for one without.

    Args:
        source: a JSON file itself, or a folder with `annotations/*.json`, `train/*.json` and so on, or `*.json`.

    Raises:
        ValueError: two files would be the same split.
    """
    if source.is_file():
        return {split_in(source.stem): source}
    for pattern in ("annotations/*.json", "*/*.json", "*.json"):
        files = [
            path
            for path in sorted(source.glob(pattern))
            if not path.stem.startswith(OTHER_TASKS) and path.is_file() and _looks_like_coco(path)
        ]
        instances = [path for path in files if path.stem.startswith("instances")]
        files = instances or files
        if files:
            break
    found: dict[str, Path] = {}
    for path in files:
        split = split_in(path.stem) or (split_in(path.parent.name) if path.parent != source else "")
        if split in found:
            raise ValueError(
                f"{path} and {found[split]} could both be the split {split or 'of all pictures'!r}: name the files "
                "train and val, or give one of them as --data."
            )
        found[split] = path
    return found


def split_in(name: str) -> str:
    """The split that a file's or folder's name tells, or `""`.

    >>> split_in("instances_val2017"), split_in("valid"), split_in("labels_my-project")
    ('val2017', 'valid', '')
    """
    match = SPLIT.search(re.sub(r"\d+", "", name))
    if not match:
        return ""
    with_year = re.search(match[1] + r"\d*", name)
    return with_year[0] if with_year else match[1]


def _looks_like_coco(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(JSON_BYTES).lstrip()
    return start.startswith("{") and any(f'"{key}"' in start for key in (*KEYS, "info", "licenses"))


def read_coco(source: Path, files: dict[str, Path]) -> FolderContent:
    """Pictures and annotations of COCO files, as they stand there.

    Raises:
        ValueError: a key is missing, an annotation names an image or category that is not listed, two files name a
            category differently, or listed pictures do not exist; the message names file and image.
    """
    folder = source if source.is_dir() else source.parent
    categories: dict[int | str, str] = {}
    splits = {}
    for split, path in files.items():
        content = read_coco_json(path)
        for category in content["categories"]:
            name = categories.setdefault(category["id"], category["name"])
            if name != category["name"]:
                raise ValueError(
                    f"{path} calls category {category['id']} {category['name']!r}, elsewhere it is {name!r}."
                )
        splits[split] = _pictures(content, path, folder, split)
    if len({isinstance(category_id, str) for category_id in categories}) > 1:
        raise ValueError(f"The categories of {source} have ids of both kinds, {shown(list(categories))}: number them.")
    ordered = {category_id: categories[category_id] for category_id in sorted(categories)}
    return FolderContent(splits, ordered, "xywh", [])


def _pictures(content: dict[str, Any], path: Path, folder: Path, split: str) -> list[AnnotatedPicture]:
    """In the order of the file."""
    known = {category["id"] for category in content["categories"]}
    objects: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        # the name is made where something is wrong: there may be a million annotations
        if not is_id(image_id) or image_id not in objects:
            raise ValueError(f"{_where(annotation, path)}: the file lists no such image.")
        if not is_id(category_id) or category_id not in known:
            listed = shown(sorted(known, key=lambda i: (str(type(i)), i)))
            raise ValueError(
                f"{_where(annotation, path)} has category_id {shown(category_id, repr)}, which is none of the file's "
                f"{listed}."
            )
        if annotation.get("bbox") is None:
            raise ValueError(f"{_where(annotation, path)} has bbox None: give [x, y, width, height] in pixels.")
        objects[image_id].append(annotation)

    find = PictureFinder(path, folder, split)
    files = {image["id"]: find(image["file_name"]) for image in content["images"]}
    missing = [image["file_name"] for image in content["images"] if files[image["id"]] is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} pictures in {path} do not exist, such as "
            f"{', '.join(map(shown, missing[:3]))}; looked in {', '.join(map(str, find.folders))}. Put them there, or "
            "leave them out of the file."
        )
    return [_picture(image, files[image["id"]], objects[image["id"]], path) for image in content["images"]]


def _where(annotation: dict[str, Any], path: Path) -> str:
    return f"{path}: annotation {shown(annotation.get('id'))} of image {shown(annotation.get('image_id'))}"


def _picture(image: dict[str, Any], file: Path, objects: list[dict], path: Path) -> AnnotatedPicture:
    width, height = image.get("width"), image.get("height")
    if not width or not height:
        width, height = picture_size(str(file))
    ids = [annotation.get("id") for annotation in objects]
    return AnnotatedPicture(
        image=str(file),
        image_id=image["id"],
        width=side_of(width, "width", f"{path}: image {image['id']}"),
        height=side_of(height, "height", f"{path}: image {image['id']}"),
        boxes=[box_of(annotation["bbox"], _where(annotation, path)) for annotation in objects],
        categories=[annotation["category_id"] for annotation in objects],
        areas=[annotation.get("area") for annotation in objects],
        crowds=[annotation.get("iscrowd") for annotation in objects],
        ids=ids if all(is_id(i) and not isinstance(i, str) for i in ids) else None,
    )


class PictureFinder:
    """Finds a picture by the name that a COCO file gives it.

    Args:
        path: of the COCO file.
        folder: of the set.
        split: that the file is.
    """

    def __init__(self, path: Path, folder: Path, split: str):
        plain = re.sub(r"\d+$", "", split)
        # those of the split first: another split may have files of the same names
        names = [name for s in {split: 0, plain: 0} if s for name in (s, f"images/{s}", f"{s}/images")]
        names += [".", "images", "data"]
        is_part = folder == path.parent and folder.name in ("annotations", "labels")
        self.root = folder.parent if is_part else folder
        folders = [path.parent, path.parent / "images", *(folder / name for name in names), path.parent.parent]
        within = (Path(f) for f in folders if f.is_dir() and f.is_relative_to(self.root))
        self.folders = list(dict.fromkeys(within))
        self._listed: dict[str, set[str]] = {}

    def __call__(self, file_name: str) -> Path | None:
        """The existing file, or None; folders in the name are optional.

        A name that leads out of the set, such as `../../other/x.jpg` or `/other/x.jpg`, finds the file
        of that name in the set, if there is one: a file from elsewhere cannot have a set read what is not its own.
        """
        relative = Path(file_name.replace("\\", "/"))
        for name in (relative, Path(relative.name)):
            for folder in self.folders:
                file = self._within(folder, name)
                if file is not None and self._exists(file):
                    # what held this one likely holds the next
                    self.folders.remove(folder)
                    self.folders.insert(0, folder)
                    return file
        return None

    def _within(self, folder: Path, name: Path) -> Path | None:
        """The file's path without `..`, or None where it would lie outside of the set."""
        if not name.is_absolute() and ".." not in name.parts:
            return folder / name
        file = Path(os.path.normpath(folder / name))
        return file if file.is_relative_to(os.path.normpath(self.root)) else None

    def _exists(self, file: Path) -> bool:
        parent = str(file.parent)
        if parent not in self._listed:
            self._listed[parent] = _files_in(parent)
        return file.name in self._listed[parent]


def _files_in(folder: str) -> set[str]:
    """Names of the regular files, links followed; none for what is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # the latter for a name that no file system allows
        return set()


def read_coco_json(path: Path) -> dict[str, Any]:
    """The file's content, with the keys that detection needs.

    Of `images` each has a text `file_name` and an `id` of its own, of `categories` each an `id` and a text `name`; ids
    are integers or texts. `annotations` are dicts, of which nothing is checked yet.

    Raises:
        ValueError: the file is no JSON, or not of this structure; the message names the file and the place.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON: {error}. Export it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {shown(content, repr)}, expected an object with {', '.join(KEYS)}.")
    for key in KEYS:
        if key not in content:
            raise ValueError(f"{path} has no {key!r}; it holds {shown(sorted(content))}.")
        _check_rows(content[key], f"{path}: {key}")
    for key, name in (("images", "file_name"), ("categories", "name")):
        for index, row in enumerate(content[key]):
            _check_named(row, name, f"{path}: {key}[{index}]")
    _check_ids_differ(content["images"], path)
    return content


def _check_rows(rows: Any, where: str) -> None:
    if not isinstance(rows, list):
        raise ValueError(f"{where} is {shown(rows, repr)}: give a list.")
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(f"{where}[{wrong}] is {shown(rows[wrong], repr)}: give an object in braces.")


def _check_named(row: Mapping[str, Any], name: str, where: str) -> None:
    if not is_id(row.get("id")):
        raise ValueError(f"{where} has the id {shown(row.get('id'), repr)}: give an integer or a text.")
    text = row.get(name)
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError(f"{where} has the {name} {shown(text, repr)}: give a text of one line.")


def _check_ids_differ(images: Sequence[Mapping[str, Any]], path: Path) -> None:
    identity, count = Counter(image["id"] for image in images).most_common(1)[0] if images else (None, 0)
    if count > 1:
        raise ValueError(f"{path} has several images with the id {shown(identity)}.")


def is_id(value: Any) -> bool:
    """Whether it can be the id of an image or a category: an integer that a set can hold, or a text."""
    if isinstance(value, str):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
