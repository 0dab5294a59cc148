"""COCO's JSON files, in any of the layouts in which tools export them.

They are read element by element, so that a file of half a gigabyte with polygons takes the memory of its boxes.
"""

import json
import math
import os
import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations import shown
from .schema import AnnotatedPictures, FolderContent, area_of, box_of, crowd_of, side_of
from .source_files import PIECE, SetFiles, opened_text, picture_size, read_json_rows, read_text, split_in, stem

KEYS = ("images", "annotations", "categories")
TASKS = ("instances", "person_keypoints", "stuff", "captions", "panoptic", "image_info")  # how names of files begin
OTHER_FORMATS = {  # what a JSON file with this key, and without COCO's, is
    **{"items": "Datumaro's own format", "shapes": "a LabelMe file of one picture", "features": "a GeoJSON file"},
    **{"_via_img_metadata": "a VIA project", "shape_attributes": "a VIA project", "imgHeight": "a file of one picture"},
    **{"samples": "FiftyOne's own format", "classes": "FiftyOne's or Supervisely's own format"},
}
KNOWN_KEY = re.compile(rf'"({"|".join([*KEYS, *OTHER_FORMATS])})"\s*:')


def find_coco(files: SetFiles) -> dict[str, str]:
    """COCO files of a folder by the split in their own or their folder's name, `""` for one without."""

    def rank(path: str) -> float:  # files of any other name are behind `instances_*`
        return next((place for place, task in enumerate(TASKS) if os.path.basename(path).startswith(task)), 0.5)

    found: dict[str, str] = {}
    for path in sorted(files.with_suffix(".json"), key=lambda path: (rank(path), path.count("/"), path)):
        folder = os.path.dirname(path)
        split = split_in(stem(path)) or split_in(os.path.basename(folder)) or split_in(folder)
        reason = _why_not_coco(Path(files.path(path)))
        if reason:
            files.passed_over.append(f"{path} {reason}")
        elif split not in found:
            found[split] = path
        elif rank(found[split]) < rank(path):
            files.passed_over.append(f"{path}: {found[split]} is read for this split")
        else:
            both = f"{files.path(path)} and {files.path(found[split])} could both be the split"
            remedy = "name the files train and val, or give one of them as --data"
            raise ValueError(f"{both} {split or 'of all pictures'!r}: {remedy}.")
    if len(found) > 1 and "" in found:
        files.passed_over.append(f"{found.pop('')}: other files have a split in their names")
    return found


def _why_not_coco(path: Path) -> str:
    """Why a JSON file cannot be COCO's, or `""` where it has the three keys somewhere."""
    found, last = set(), ""
    with opened_text(path, errors="replace") as file:
        while not found.issuperset(KEYS) and (piece := file.read(PIECE)):
            if not last and piece.lstrip().startswith("["):
                return "is a list, as CreateML, Label Studio and BDD write it; export the set as COCO"
            found.update(KNOWN_KEY.findall(last + piece))
            last = piece[-64:]
    missing = [key for key in KEYS if key not in found]
    others = sorted(found.difference(KEYS))
    if missing and others:
        return f"is {OTHER_FORMATS[others[0]]}; export the set as COCO"
    if missing and path.stat().st_size < PIECE:
        try:
            json.loads(read_text(path))
        except (ValueError, RecursionError) as error:
            return f"is not valid JSON: {error}"
    return f"has no {' and no '.join(map(repr, missing))}" if missing else ""


class CocoFile:
    """What detection needs of a COCO file, in its order; names and sizes of pictures as it has them."""

    def __init__(self, path: Path):
        self.path = path
        self.pictures = AnnotatedPictures()  # without `image_ids`, `counts` and `categories`
        self.categories: list[tuple[int | str, str, Any]] = []  # id, name and supercategory
        self.numbers: dict[int | str, int] = {}  # of all ids of pictures, and of the categories of annotations
        self.listed, self.images, self.labels = array("i"), array("i"), array("i")  # such numbers
        self.other_ids: dict[int, Any] = {}  # by place, what stands for an id and is no integer
        self.of_polygons = 0
        found = []
        for key, index, row in read_json_rows(path):
            if index >= 0 and key == "annotations" and isinstance(row, dict):
                self._add_annotation(row)
                continue
            where = f"{path}: {key}" + f"[{index}]" * (index >= 0)
            if index < 0:
                found.append(key)
                if not key:
                    raise ValueError(f"{path} holds {shown(row, repr)}, expected an object with {', '.join(KEYS)}.")
                if key in KEYS and row != []:
                    raise ValueError(f"{where} is {shown(row, repr)}: give a list.")
            elif key in KEYS and not isinstance(row, dict):
                raise ValueError(f"{where} is {shown(row, repr)}: give an object in braces.")
            elif key in KEYS:
                named = "file_name" if key == "images" else "name"
                identity, name = as_id(row.get("id")), row.get(named)
                if identity is None:
                    raise ValueError(f"{where} has the id {shown(row.get('id'), repr)}: give an integer or a text.")
                if not isinstance(name, str) or not name.isprintable():
                    raise ValueError(f"{where} has the {named} {shown(name, repr)}: give a text of one line.")
                if key == "categories":
                    self.categories.append((identity, name, row.get("supercategory")))
                else:
                    self.listed.append(self.numbers.setdefault(identity, len(self.numbers)))
                    self.pictures.images.append(name)
                    for side, sides in (("width", self.pictures.widths), ("height", self.pictures.heights)):
                        sides.append(side_of(row.get(side) or 0, side, f"{path}: image {identity}"))
        missing = next((key for key in KEYS if key not in found), None)
        if missing:
            raise ValueError(f"{path} has no {missing!r}; it holds {shown(sorted(found))}.")
        for number in np.flatnonzero(np.bincount(self.listed) > 1):
            raise ValueError(f"{path} has several images with the id {shown(list(self.numbers)[number])}.")

    def _add_annotation(self, row: dict[str, Any]) -> None:
        try:
            image_id, category_id = as_id(row.get("image_id")), as_id(row.get("category_id"))
            box, area = row.get("bbox"), row.get("area")
            if image_id is None:
                raise ValueError(": the file lists no such image.")
            if category_id is None:
                wrong = shown(row.get("category_id"), repr)
                raise ValueError(f" has category_id {wrong}, which is none of the file's categories.")
            if box is None:
                try:  # polygons [[x1, y1, x2, y2, …], …]
                    polygons = [np.array(polygon, dtype=np.float64) for polygon in row.get("segmentation")]
                    points = np.concatenate([polygon.reshape(-1, 2) for polygon in polygons])
                    box = [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]
                except (TypeError, ValueError):
                    raise ValueError(" has bbox None: give [x, y, width, height] in pixels.") from None
                self.of_polygons += 1
            self.pictures.boxes.extend(box_of(box, ""))
            self.pictures.areas.append(math.nan if area is None else area_of(area, ""))
            self.pictures.crowds.append(crowd_of(row.get("iscrowd"), ""))
        except ValueError as error:  # the name of the annotation costs time, of which a million have none
            where = f"{self.path}: annotation {shown(row.get('id'))} of image {shown(row.get('image_id'))}"
            raise ValueError(f"{where}{error}") from None
        identity = as_id(row.get("id"))
        if not isinstance(identity, int):
            self.other_ids[len(self.images)] = row.get("id")
        self.pictures.ids.append(identity if isinstance(identity, int) else 0)
        self.images.append(self.numbers.setdefault(image_id, len(self.numbers)))
        self.labels.append(self.numbers.setdefault(category_id, len(self.numbers)))

    def where(self, place: int) -> str:
        """What errors call an annotation."""
        identity = self.other_ids.get(place, self.pictures.ids[place])
        return f"{self.path}: annotation {shown(identity)} of image {shown(list(self.numbers)[self.images[place]])}"


def as_id(value: Any) -> int | str | None:
    """A value as an id: an integer that a set can hold, or a text; None for others.

    >>> as_id(7), as_id(7.0), as_id("a"), as_id(True)
    (7, 7, 'a', None)
    """
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of a column with gaps
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 or isinstance(value, str) else None


def read_coco(files: SetFiles, chosen: Mapping[str, str]) -> FolderContent:
    """Pictures and annotations of the COCO file of each split, as `find_coco` returns them.

    Categories are in the order of their ids, without the row in which Roboflow names the project. Raises a ValueError
    that names file and image where an annotation's image or category is not listed, or a picture does not exist.
    """
    contents = {split: CocoFile(Path(files.path(path))) for split, path in chosen.items()}
    notes, names, parents = [], {}, {}
    for content in contents.values():
        if content.of_polygons:
            count = content.of_polygons
            notes.append(f"{content.path.name}: {count} objects have no bbox; it is that of their polygon")
        for identity, name, parent in content.categories:
            parents[identity] = parent
            if names.setdefault(identity, name) != name:
                problem = f"calls category {identity} {name!r}, elsewhere it is {names[identity]!r}"
                raise ValueError(f"{content.path} {problem}.")
    if len({isinstance(identity, str) for identity in names}) > 1:
        paths = ", ".join(str(content.path) for content in contents.values())
        raise ValueError(f"The categories of {paths} have ids of both kinds, {shown(list(names))}: number them.")
    used = {ids[number] for one in contents.values() for ids in [list(one.numbers)] for number in set(one.labels)}
    for identity in [i for i in names if i not in used]:
        others = [parents[other] for other in names if other != identity]
        if others and all(parent == names[identity] for parent in others):
            notes.append(f"category {identity}, {names[identity]!r}, has no objects and is the parent of all others")
            del names[identity]
            break
    splits = {split: _pictures(content, files, chosen[split], split, notes) for split, content in contents.items()}
    return FolderContent(splits, dict(sorted(names.items())), "xywh", notes)


def _pictures(content: CocoFile, files: SetFiles, path: str, split: str, notes: list[str]) -> AnnotatedPictures:
    """The content's own columns, sorted: pictures in the order of the file, each with its objects in that order."""
    pictures, ids = content.pictures, list(content.numbers)
    pictures.image_ids = [ids[number] for number in content.listed]
    row_of = np.full(len(ids), -1, dtype=np.int32)  # of each number
    row_of[content.listed] = np.arange(len(pictures))
    row_of = row_of[content.images]  # of each annotation
    if (row_of < 0).any():
        place = int(np.argmax(row_of < 0))
        image_id, hint = ids[content.images[place]], ""
        if isinstance(image_id, str) and not any(isinstance(listed, str) for listed in pictures.image_ids):
            hint = f": {shown(image_id, repr)}, which is text, is not in {shown(pictures.image_ids[:3])}"
        raise ValueError(f"{content.where(place)}: the file lists no such image{hint}.")
    known = {identity for identity, *_ in content.categories}
    place = next((place for place, number in enumerate(content.labels) if ids[number] not in known), None)
    if place is not None:
        listed = shown(sorted(known, key=lambda identity: (str(type(identity)), identity)))
        unknown = shown(ids[content.labels[place]], repr)
        raise ValueError(f"{content.where(place)} has category_id {unknown}, which is none of the file's {listed}.")
    order, counts = np.argsort(row_of, kind="stable"), np.bincount(row_of, minlength=len(pictures))
    for column in (*np.asarray(pictures.boxes).reshape(-1, 4).T, pictures.areas, pictures.crowds, pictures.ids):
        np.asarray(column)[:] = np.asarray(column)[order]
    if content.other_ids:  # as everywhere without ids, objects of a picture in which one has none are numbered
        numbered = np.isin(row_of[order], row_of[list(content.other_ids)])
        positions = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        np.copyto(np.asarray(pictures.ids), positions, where=numbered)
    pictures.counts, pictures.categories = counts, [ids[number] for number in np.asarray(content.labels)[order]]

    folder, above = os.path.dirname(path), os.path.dirname(os.path.dirname(path))
    # those of the split first: another split may have files of the same names
    near = [folder, f"{folder}/images", f"{folder}/data"] if folder else []
    for name in filter(None, (split, re.sub(r"\d+$", "", split), "default")):
        near += [name, f"images/{name}", f"{name}/images", f"{name}/data", f"data/{name}"]
    folders = [name for name in dict.fromkeys([*near, "", "images", "data", above]) if name in files.folders]
    missing, other = [], 0
    for row, name in enumerate(pictures.images):
        file = files.find(name, folders)
        if file is None:
            missing.append(name)
            continue
        other += os.path.basename(name.replace("\\", "/")) != os.path.basename(file)
        pictures.images[row] = files.path(file)
        if not pictures.widths[row] or not pictures.heights[row]:
            pictures.widths[row], pictures.heights[row] = picture_size(pictures.images[row])
    if missing:
        looked = ", ".join(str(Path(files.path(f))) if f else str(files.root) for f in folders)
        problem = f"{len(missing)} of the {len(pictures)} pictures in {content.path} do not exist"
        such = f"{', '.join(map(shown, missing[:3]))}; looked in {looked}{files.hint(missing[0])}"
        raise ValueError(f"{problem}, such as {such}. Put them there, or leave them out of the file.")
    if other:
        notes.append(f"{other} pictures of {content.path.name} were found by a name in another case or Unicode form")
    return pictures
