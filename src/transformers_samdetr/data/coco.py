"""COCO's JSON files, in any of the layouts in which tools export them.

They are read element by element, so that a file of half a gigabyte with polygons takes the memory of its boxes.
"""

import codecs
import json
import math
import os
import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations import LARGEST_AREA, shown
from .schema import AnnotatedPictures, FolderContent, area_of, box_of, crowd_of, side_of
from .source_files import PIECE, SetFiles, picture_size, read_json_rows, split_in, text_encoding

KEYS = ("images", "annotations", "categories")
OTHER_TASKS = ("person_keypoints", "stuff", "captions", "panoptic", "image_info")
"""Beginnings of the names of COCO files for other tasks, read where there is no file for detection."""
OTHER_FORMATS = {
    "items": "Datumaro's own format",
    "shapes": "a LabelMe file of one picture",
    "_via_img_metadata": "a VIA project",
    "shape_attributes": "a VIA project",
    "samples": "FiftyOne's own format",
    "classes": "FiftyOne's own format",
    "imgHeight": "a file of one picture",
    "features": "a GeoJSON file",
}
"""What a JSON file with this key, and without COCO's, is."""


def find_coco(files: SetFiles, passed_over: list[str]) -> dict[str, str]:
    """COCO files of a folder by the split in their own or their folder's name, `""` for one without.

    Args:
        files: of the set.
        passed_over: gets a line for each JSON file that is not taken, and why.

    Raises:
        ValueError: two files could be the same split.
    """
    found: dict[str, str] = {}
    for path in sorted(files.with_suffix(".json"), key=lambda p: (_rank(p), p.count("/"), p)):
        reason = _why_not_coco(Path(files.path(path)))
        if reason:
            passed_over.append(f"{path} {reason}")
            continue
        folder, _, name = path.rpartition("/")
        split = split_in(name.rpartition(".")[0]) or split_in(folder.rpartition("/")[2]) or split_in(folder)
        if split in found:
            if _rank(found[split]) == _rank(path):
                raise ValueError(
                    f"{files.path(path)} and {files.path(found[split])} could both be the split "
                    f"{split or 'of all pictures'!r}: name the files train and val, or give one of them as --data."
                )
            passed_over.append(f"{path}: {found[split]} is read for this split")
            continue
        found[split] = path
    if len(found) > 1 and "" in found:
        passed_over.append(f"{found.pop('')}: other files have a split in their names")
    return found


def _rank(path: str) -> int:
    """Detection before other tasks: `instances_*` first, then others, then files of other tasks."""
    name = path.rpartition("/")[2]
    if name.startswith(OTHER_TASKS):
        return 2 + next(i for i, task in enumerate(OTHER_TASKS) if name.startswith(task))
    return 0 if name.startswith("instances") else 1


def _why_not_coco(path: Path) -> str:
    """Why a JSON file cannot be COCO's, or `""` where it has the three keys somewhere."""
    missing, others, last, encoding = set(KEYS), set(), b"", "utf-8"
    is_list = False
    with path.open("rb") as file:
        start = file.read(4)
        encoding = text_encoding(start)
        file.seek(0)
        while missing and (piece := file.read(PIECE)):
            text = (last + piece).decode(encoding, "replace") if encoding == "utf-16" else last + piece
            text = text.encode() if isinstance(text, str) else text
            is_list = is_list or not last and text.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
            missing -= {key for key in missing if re.search(rb'"%s"\s*:' % key.encode(), text)}
            others |= {key for key in OTHER_FORMATS if b'"%s"' % key.encode() in text}
            last = piece[-64:]
    if is_list:
        return "is a list, as CreateML, Label Studio and BDD write it; export the set as COCO"
    if not missing:
        return ""
    if others:
        kind = OTHER_FORMATS[sorted(others)[0]]
        return f"is {kind}; export the set as COCO"
    if path.stat().st_size < PIECE:
        try:
            json.loads(path.read_bytes().decode(encoding))
        except (ValueError, RecursionError) as error:
            return f"is not valid JSON: {error}"
    return f"has no {' and no '.join(repr(key) for key in KEYS if key in missing)}"


class CocoFile:
    """What detection needs of a COCO file, by column; places of annotations are counted in the file's order.

    Attributes:
        images: `(id, file_name, width, height)` of each.
        categories: the dicts of each, with `id` and `name`.
        image_ids, category_ids: those that annotations name, in the order in which they do.
        image_of, category_of: `(T,)`, positions in these.
        boxes: `(4 T,)`, x, y, width, height in pixels.
        areas: `(T,)` in square pixels, NaN where there is none.
        crowds: `(T,)`.
        ids: `(T,)`, annotation ids, 0 where they are no integers.
        other_ids: what stands there then, by place.
        notes: what was decided while reading.
    """

    def __init__(self, path: Path):
        """Reads and checks a file.

        Raises:
            ValueError: it is no JSON, a key is missing, or an entry has no usable id, name or box; the message names
                the file and the place.
        """
        self.path = path
        self.images: list[tuple[int | str, str, Any, Any]] = []
        self.categories: list[dict[str, Any]] = []
        self.image_ids: dict[Any, int] = {}
        self.category_ids: dict[Any, int] = {}
        self.image_of, self.category_of = array("q"), array("q")
        self.boxes, self.areas, self.crowds = array("d"), array("d"), array("b")
        self.ids, self.other_ids = array("q"), {}
        self.notes: list[str] = []
        self._of_polygons = 0
        read = {"images": self._add_image, "annotations": self._add_annotation, "categories": self._add_category}
        found = []
        for key, index, row in read_json_rows(path):
            if index < 0:
                found.append(key)
                if not key:
                    raise ValueError(f"{path} holds {shown(row, repr)}, expected an object with {', '.join(KEYS)}.")
                if key in read and row != []:
                    raise ValueError(f"{path}: {key} is {shown(row, repr)}: give a list.")
            elif key in read and not isinstance(row, dict):
                raise ValueError(f"{path}: {key}[{index}] is {shown(row, repr)}: give an object in braces.")
            elif key in read:
                read[key](index, row)
        missing = next((key for key in KEYS if key not in found), None)
        if missing:
            raise ValueError(f"{path} has no {missing!r}; it holds {shown(sorted(found))}.")
        if self._of_polygons:
            self.notes.append(f"{path.name}: {self._of_polygons} objects have no bbox; it is that of their polygon")

    def _add_image(self, index: int, row: dict[str, Any]) -> None:
        self._check_named(row, "file_name", f"images[{index}]")
        self.images.append((row["id"], row["file_name"], row.get("width"), row.get("height")))

    def _add_category(self, index: int, row: dict[str, Any]) -> None:
        self._check_named(row, "name", f"categories[{index}]")
        self.categories.append(row)

    def _check_named(self, row: dict[str, Any], name: str, where: str) -> None:
        identity, text = as_id(row.get("id")), row.get(name)
        if identity is None:
            raise ValueError(
                f"{self.path}: {where} has the id {shown(row.get('id'), repr)}: give an integer or a text."
            )
        row["id"] = identity
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{self.path}: {where} has the {name} {shown(text, repr)}: give a text of one line.")

    def _add_annotation(self, index: int, row: dict[str, Any]) -> None:
        image_id, category_id = as_id(row.get("image_id")), as_id(row.get("category_id"))
        if image_id is None:
            raise ValueError(f"{self._where(row)}: the file lists no such image.")
        if category_id is None:
            wrong = shown(row.get("category_id"), repr)
            raise ValueError(f"{self._where(row)} has category_id {wrong}, which is none of the file's categories.")
        box = row.get("bbox")
        if box is None:
            box = polygon_box(row.get("segmentation"))
            if box is None:
                raise ValueError(f"{self._where(row)} has bbox None: give [x, y, width, height] in pixels.")
            self._of_polygons += 1
        if not (type(box) is list and len(box) == 4 and _append(self.boxes, box)):
            self.boxes.extend(box_of(box, self._where(row)))
        area, crowd = row.get("area"), row.get("iscrowd")
        # the text for an error is made where there is one: there may be a million annotations
        plain = type(area) in (int, float) and 0 <= area <= LARGEST_AREA
        self.areas.append(math.nan if area is None else area if plain else area_of(area, self._where(row)))
        self.crowds.append(0 if crowd is None or crowd == 0 else crowd_of(crowd, self._where(row)))
        self.image_of.append(self.image_ids.setdefault(image_id, len(self.image_ids)))
        self.category_of.append(self.category_ids.setdefault(category_id, len(self.category_ids)))
        identity = as_id(row.get("id"))
        if not isinstance(identity, int):
            self.other_ids[len(self.ids)] = row.get("id")
            identity = 0
        self.ids.append(identity)

    def _where(self, row: Mapping[str, Any]) -> str:
        return f"{self.path}: annotation {shown(row.get('id'))} of image {shown(row.get('image_id'))}"

    def where(self, place: int) -> str:
        """What errors call an annotation."""
        image_id = next(key for key, number in self.image_ids.items() if number == self.image_of[place])
        return self._where({"id": self.other_ids.get(place, self.ids[place]), "image_id": image_id})


def _append(numbers: array, values: list) -> bool:
    """Adds all values, or none where one is no number."""
    try:
        numbers.fromlist(values)
    except (TypeError, OverflowError):
        return False
    return True


def as_id(value: Any) -> int | str | None:
    """A value as the id of an image or a category: an integer that a set can hold, or a text; None for others.

    >>> as_id(7), as_id(7.0), as_id("a"), as_id(True)
    (7, 7, 'a', None)
    """
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of a column with gaps
        value = int(value)
    if type(value) is int and -(2**63) <= value < 2**63 or isinstance(value, str):
        return value
    return None


def polygon_box(segmentation: Any) -> list[float] | None:
    """The (x, y, width, height) box around polygons `[[x1, y1, x2, y2, …], …]`; None for what is none.

    >>> polygon_box([[4, 5, 24, 5, 24, 15]])
    [4.0, 5.0, 20.0, 10.0]
    """
    try:
        points = np.concatenate([np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation])
        low, high = points.min(0), points.max(0)
    except (TypeError, ValueError):
        return None
    return [*low.tolist(), *(high - low).tolist()]


def read_coco(files: SetFiles, chosen: Mapping[str, str]) -> FolderContent:
    """Pictures and annotations of COCO files.

    Args:
        files: of the set.
        chosen: path of the file of each split, as `find_coco` returns them.

    Raises:
        ValueError: a key is missing, an annotation names an image or category that is not listed, two files name a
            category differently, or listed pictures do not exist; the message names file and image.
    """
    contents = {split: CocoFile(Path(files.path(path))) for split, path in chosen.items()}
    notes = [note for content in contents.values() for note in content.notes]
    categories = _categories(files.root, list(contents.values()), notes)
    splits = {
        split: _pictures(content, files, chosen[split], split, set(categories), notes)
        for split, content in contents.items()
    }
    return FolderContent(splits, categories, "xywh", notes)


def _categories(root: Path, contents: list[CocoFile], notes: list[str]) -> dict[int | str, str]:
    """Names by id, in the order of the ids; without the row in which Roboflow names the project."""
    names: dict[int | str, str] = {}
    parents: dict[int | str, Any] = {}
    for content in contents:
        for category in content.categories:
            name = names.setdefault(category["id"], category["name"])
            parents[category["id"]] = category.get("supercategory")
            if name != category["name"]:
                raise ValueError(
                    f"{content.path} calls category {category['id']} {category['name']!r}, elsewhere it is {name!r}."
                )
    if len({isinstance(identity, str) for identity in names}) > 1:
        raise ValueError(f"The categories of {root} have ids of both kinds, {shown(list(names))}: number them.")
    used = set().union(*(content.category_ids for content in contents))
    for identity in [i for i in names if i not in used]:
        others = [parents[other] for other in names if other != identity]
        if others and all(parent == names[identity] for parent in others):
            notes.append(f"category {identity}, {names[identity]!r}, has no objects and is the parent of all others")
            del names[identity]
            break
    return {identity: names[identity] for identity in sorted(names)}


def _pictures(
    content: CocoFile, files: SetFiles, path: str, split: str, categories: set, notes: list[str]
) -> AnnotatedPictures:
    """The pictures in the order of the file, each with its objects in the order of the file."""
    rows: dict[int | str, int] = {}
    for image_id, *_ in content.images:
        if image_id in rows:
            raise ValueError(f"{content.path} has several images with the id {shown(image_id)}.")
        rows[image_id] = len(rows)
    row_of = np.array([rows.get(image_id, -1) for image_id in content.image_ids], dtype=np.int64)
    objects = row_of[np.array(content.image_of)] if len(content.ids) else np.zeros(0, dtype=np.int64)
    if (objects < 0).any():
        place = int(np.flatnonzero(objects < 0)[0])
        image_id = next(i for i, row in zip(content.image_ids, row_of, strict=True) if row < 0)
        kinds = f": {shown(image_id, repr)}, which is text, is not in {shown(list(rows)[:3])}"
        hint = kinds if isinstance(image_id, str) and not any(isinstance(i, str) for i in rows) else ""
        raise ValueError(f"{content.where(place)}: the file lists no such image{hint}.")
    known = [category["id"] for category in content.categories]
    unknown = [identity for identity in content.category_ids if identity not in categories or identity not in known]
    if unknown:
        place = content.category_of.index(content.category_ids[unknown[0]])
        listed = shown(sorted(known, key=lambda i: (str(type(i)), i)))
        raise ValueError(
            f"{content.where(place)} has category_id {shown(unknown[0], repr)}, which is none of the file's {listed}."
        )

    pictures = AnnotatedPictures()
    pictures.images = _find_pictures(content, files, path, split, notes)
    pictures.image_ids = [image_id for image_id, *_ in content.images]
    for (image_id, _, width, height), image in zip(content.images, pictures.images, strict=True):
        if not width or not height:
            width, height = picture_size(image)
        where = f"{content.path}: image {image_id}"
        pictures.widths.append(side_of(width, "width", where))
        pictures.heights.append(side_of(height, "height", where))
    order = np.argsort(objects, kind="stable")
    counts = np.bincount(objects, minlength=len(rows))
    pictures.counts = array("q", counts.tobytes())
    pictures.boxes = array("d", np.array(content.boxes).reshape(-1, 4)[order].tobytes())
    pictures.areas = array("d", np.array(content.areas)[order].tobytes())
    pictures.crowds = array("b", np.array(content.crowds, dtype=np.int8)[order].tobytes())
    names = list(content.category_ids)
    pictures.categories = [names[number] for number in np.array(content.category_of, dtype=np.int64)[order].tolist()]
    # as everywhere without ids, objects of a picture in which one has none are numbered
    numbered = np.zeros(len(rows), dtype=bool)
    numbered[objects[list(content.other_ids)]] = True
    positions = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    ids = np.where(numbered[objects[order]], positions, np.array(content.ids, dtype=np.int64)[order])
    pictures.ids = array("q", ids.tobytes())
    return pictures


def _find_pictures(content: CocoFile, files: SetFiles, path: str, split: str, notes: list[str]) -> list[str]:
    """The path of each image's file."""
    folder, above = path.rpartition("/")[0], path.rpartition("/")[0].rpartition("/")[0]
    plain = re.sub(r"\d+$", "", split)
    # those of the split first: another split may have files of the same names
    names = [folder, f"{folder}/images", f"{folder}/data"] if folder else []
    for name in dict.fromkeys((split, plain, "default")):
        if name:
            names += [name, f"images/{name}", f"{name}/images", f"{name}/data", f"data/{name}"]
    names += ["", "images", "data", above]
    folders = [name.strip("/") for name in dict.fromkeys(names) if name.strip("/") in files.folders]
    found = [files.find(name, folders) for _, name, _, _ in content.images]
    missing = [name for (_, name, _, _), file in zip(content.images, found, strict=True) if file is None]
    if missing:
        near = files.similar(missing[0])
        looked = ", ".join(str(Path(files.path(f))) if f else str(files.root) for f in folders)
        raise ValueError(
            f"{len(missing)} of the {len(found)} pictures in {content.path} do not exist, such as "
            f"{', '.join(map(shown, missing[:3]))}; looked in {looked}"
            + (f" (for {shown(missing[0])} there is {near})" if near else "")
            + ". Put them there, or leave them out of the file."
        )
    other = sum(
        os.path.basename(name.replace("\\", "/")) != os.path.basename(f)
        for (_, name, *_), f in zip(content.images, found, strict=True)
    )
    if other:
        notes.append(f"{other} pictures of {content.path.name} were found by a name in another case or Unicode form")
    return [files.path(file) for file in found]
