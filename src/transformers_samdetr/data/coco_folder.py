"""Folders with COCO's JSON files, in any of the layouts that tools export."""

import json
import re
from pathlib import Path
from typing import Any

from .annotated_picture import AnnotatedPicture, FolderContent, picture_size

KEYS = ("images", "annotations", "categories")
OTHER_TASKS = ("captions", "person_keypoints", "stuff", "panoptic", "image_info")
SPLIT = re.compile(r"(?:^|[^a-z])(training|train|validation|valid|val|dev|testing|test)(?:[^a-z]|$)", re.IGNORECASE)
JSON_BYTES = 4096
"""Enough of a file to see whether it could be COCO's."""


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
            if not path.stem.startswith(OTHER_TASKS) and _looks_like_coco(path)
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
                raise ValueError(f"{path} calls category {category['id']} {category['name']!r}, another file {name!r}.")
        splits[split] = _pictures(content, path, folder, split)
    ordered = {category_id: categories[category_id] for category_id in sorted(categories)}
    return FolderContent(splits, ordered, "xywh", [])


def read_coco_json(path: Path) -> dict[str, Any]:
    """The file's content, with the keys that detection needs."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Export it again.") from error
    for key in KEYS:
        if key not in content:
            raise ValueError(f"{path} has no {key!r}; it holds {sorted(content)}.")
    return content


def _pictures(content: dict[str, Any], path: Path, folder: Path, split: str) -> list[AnnotatedPicture]:
    """In the order of the file."""
    known = {category["id"] for category in content["categories"]}
    objects: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    if len(objects) < len(content["images"]):
        ids = [image["id"] for image in content["images"]]
        raise ValueError(f"{path} has several images with the id {next(i for i in ids if ids.count(i) > 1)}.")
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id')} of image {annotation.get('image_id')}"
        if annotation.get("image_id") not in objects:
            raise ValueError(f"{where}: the file lists no such image.")
        if annotation.get("category_id") not in known:
            raise ValueError(
                f"{where} has category_id {annotation.get('category_id')}, which is none of the file's {sorted(known)}."
            )
        if len(annotation.get("bbox") or ()) != 4:
            raise ValueError(f"{where} has bbox {annotation.get('bbox')}: give [x, y, width, height] in pixels.")
        objects[annotation["image_id"]].append(annotation)

    find = PictureFinder(path, folder, split)
    files = {image["id"]: find(image["file_name"]) for image in content["images"]}
    missing = [image["file_name"] for image in content["images"] if files[image["id"]] is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(files)} pictures in {path} do not exist, such as {', '.join(missing[:3])}; "
            f"looked in {', '.join(map(str, find.folders))}. Put them there, or leave them out of the file."
        )
    return [_picture(image, files[image["id"]], objects[image["id"]]) for image in content["images"]]


def _picture(image: dict[str, Any], file: Path, objects: list[dict]) -> AnnotatedPicture:
    width, height = image.get("width"), image.get("height")
    if not width or not height:
        width, height = picture_size(str(file))
    ids = [annotation.get("id") for annotation in objects]
    return AnnotatedPicture(
        image=str(file),
        image_id=image["id"],
        width=int(width),
        height=int(height),
        boxes=[annotation["bbox"] for annotation in objects],
        categories=[annotation["category_id"] for annotation in objects],
        areas=[annotation.get("area") for annotation in objects],
        crowds=[annotation.get("iscrowd") or 0 for annotation in objects],
        ids=ids if all(isinstance(i, int) for i in ids) else None,
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
        folders = [path.parent, path.parent / "images", *(folder / name for name in names), path.parent.parent]
        self.folders = list(dict.fromkeys(Path(f) for f in folders if f.is_dir()))
        self._listed: dict[Path, set[str]] = {}

    def __call__(self, file_name: str) -> Path | None:
        """The existing file, or None; folders in the name are optional."""
        relative = Path(file_name.replace("\\", "/"))
        for name in (relative, Path(relative.name)):
            for folder in self.folders:
                if self._exists(folder / name):
                    # what held this one likely holds the next
                    self.folders.remove(folder)
                    self.folders.insert(0, folder)
                    return folder / name
        return None

    def _exists(self, file: Path) -> bool:
        parent = file.parent
        if parent not in self._listed:
            self._listed[parent] = {entry.name for entry in parent.iterdir()} if parent.is_dir() else set()
        return file.name in self._listed[parent]
