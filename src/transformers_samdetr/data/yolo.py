"""Folders in the layouts of YOLO: Ultralytics' `data.yaml`, darknet's `obj.data`, or labels and a list of classes.

A line of a label file is a class and four shares of the picture (center x, center y, width, height). Longer lines are
polygons, or boxes with keypoints or a score, as the YAML file or the numbers of all lines tell.
"""

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..annotations import shown
from .schema import AnnotatedPicture, AnnotatedPictures, FolderContent
from .source_files import (
    SPLIT_NAMES,
    SetFiles,
    clean_parts,
    is_picture,
    picture_size,
    read_text,
    read_yaml,
    require_utf8,
)

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names", "_darknet.labels", "predefined_classes.txt")
NOTHING = ("", "null", "~", "None", [])
LINE = (  # what errors ask for
    "give the class, an integer, and center x, center y, width and height, or corners of a polygon, as shares of the "
    "picture, with spaces between them"
)
SLACK = 0.01  # how far a share may be outside of the picture by rounding
Line = tuple[str, int, list[float]]  # a label file, the number of a line of it, and the numbers in this line


@dataclass(frozen=True)
class YoloLayout:
    """A description of a set, not yet followed."""

    source: Path  # the file or folder that describes it, named in errors
    names: dict[int, str]  # class of each number
    entries: dict[str, list[str]]  # folders, lists or pictures of each split, as written; empty for all pictures
    base: str = "."  # folder that the entries are written relative to
    keypoints: tuple[int, ...] | None = None  # `kpt_shape`; () for polygons, None where nothing is said


def find_yolo(files: SetFiles, given: str | None = None) -> YoloLayout | None:
    """The description of a YOLO set, of the `given` file or of the first that is one; None for other layouts."""
    described = [path for path in files.with_suffix(".yaml", ".yml", ".data") if path.count("/") < 4]
    for path in [given] if given else sorted(described, key=lambda path: (path.count("/"), path)):
        try:
            layout = _described(path, files)
        except ValueError as error:
            if given or "/" not in path:
                raise
            files.passed_over.append(str(error))
            continue
        if layout is not None:
            return layout
        files.passed_over.append(f"{path} has no `names` (that are there) with `train` or `val`")
    texts = files.with_suffix(".txt")
    named = [path for path in texts + files.with_suffix(".names", ".labels") if os.path.basename(path) in NAME_FILES]
    labels = [path for path in texts if "labels" in path.split("/")[:-1]]
    if texts and not labels:
        labels = [label for image in files.pictures() if (label := _label_file(image, files)) is not None]
    if labels and named:
        names = min(named, key=lambda path: (path.count("/"), NAME_FILES.index(os.path.basename(path))))
        return YoloLayout(files.root, _names(names, names, files), {})
    if labels and re.match(r"[A-Za-z]+[ \t]", read_text(files.path(labels[0]))):
        files.passed_over.append(f"{labels[0]} begins with a word, as KITTI's label files do")
    elif labels:
        remedy = "add a data.yaml with `train: images` and `names: [...]`, or a classes.txt with a name a line"
        files.passed_over.append(f"{labels[0]} is a label file, but the set does not name the classes: {remedy}")
    elif texts:
        files.passed_over.append(f"{texts[0]} has not the name of a picture, and lies in no folder `labels`")
    return None


def _described(name: str, files: SetFiles) -> YoloLayout | None:
    """What a YAML file says, or darknet's `obj.data` in lines `train = …`, `valid = …`, `names = …`."""
    path = Path(files.path(name))
    if path.suffix != ".data":
        content = read_yaml(path)
    else:
        lines = [line.partition("=") for line in read_text(path).split("\n") if "=" in line]
        content = {key.strip(): value.strip() for key, _, value in lines} | {"kpt_shape": [], "path": "."}
        if files.find(content.get("names", ""), [os.path.dirname(name), ""]) is None:
            return None
    if not isinstance(content, dict) or "names" not in content or not any(content.get(split) for split in SPLIT_NAMES):
        return None
    base, entries = content.get("path", "."), {}
    if not isinstance(base, str):
        raise ValueError(f"{path} has for path a {type(base).__name__}: give the folder that the others are in.")
    for split in SPLIT_NAMES:
        value = content.get(split, "")
        value = [] if value in NOTHING else [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"{path} has for {split} a {type(value).__name__}: give a path, or a list of paths.")
        entries |= {split: value} if value else {}
    keypoints = shape = content.get("kpt_shape")
    if shape is not None:
        try:
            keypoints = () if shape in NOTHING else tuple(map(int, shape))
        except (TypeError, ValueError):
            keypoints = (0,)
        if keypoints and (len(keypoints) != 2 or keypoints[0] < 1 or keypoints[1] not in (2, 3)):
            wrong = shown(shape, repr)
            raise ValueError(f"{path} has kpt_shape={wrong}: give [number of keypoints, 2 or 3], or no shape.")
    return YoloLayout(path, _names(content["names"], name, files), entries, base, keypoints)


def _names(names: Any, source: str, files: SetFiles) -> dict[int, str]:
    """Classes by number, of a list, a mapping, or the name of a file with a class a line."""
    file = files.find(names, [os.path.dirname(source), ""]) if isinstance(names, str) else None
    if file is not None:
        lines = map(str.strip, read_text(files.path(file)).split("\n"))
        numbered = {number: line for number, line in enumerate(lines) if line}
        if not numbered:
            raise ValueError(f"{files.path(file)} is empty: write the name of a class in each line.")
        return numbered
    try:
        named = dict(enumerate(names) if isinstance(names, list) else names)
        numbered = {int(key): name for key, name in named.items() if isinstance(name, str) and abs(int(key)) < 2**31}
    except (TypeError, ValueError):
        named = numbered = {}
    if not named or len(numbered) < len(named):
        wrong = f"{files.path(source)} has names={shown(names, repr)}"
        raise ValueError(f"{wrong}: give a list of class names, or a mapping of class number to name.")
    return dict(sorted(numbered.items()))


def read_yolo(files: SetFiles, layout: YoloLayout) -> FolderContent:
    """Pictures and labels that a YOLO set describes.

    A picture's labels are in the file of its name with `labels` for the last `images` (or `JPEGImages`) of its path, or
    beside it; without one it has no objects. Of a polygon the box around it is taken. Raises a ValueError that names
    the file where a folder is missing, or a line does not fit.
    """
    notes: list[str] = []
    found = _pictures_of(files, layout, notes)
    empty = [split for split, paths in found.items() if not paths]
    if empty or not found:
        entries = [str(entry) for split in empty for entry in layout.entries.get(split, [split])]
        raise ValueError(f"{layout.source}: no pictures in {', '.join(entries) or files.root}.")
    require_utf8(image for images in found.values() for image in images)
    found_labels = {image: _label_file(image, files) for images in found.values() for image in images}
    labels = {image: files.path(label) for image, label in found_labels.items() if label}
    if not labels:
        image = next(iter(found_labels))
        looked = f"for {image}, looked for {' and '.join(_label_places(image))}"
        raise ValueError(f"{layout.source}: none of the pictures has a label file; {looked}.")
    objects = _objects(dict.fromkeys(labels.values()), layout, notes)
    splits = {split: AnnotatedPictures() for split in found}
    for split, images in found.items():
        for image in images:
            path, (boxes, categories) = files.path(image), objects.get(labels.get(image), ([], []))
            splits[split].add(AnnotatedPicture(path, None, *picture_size(path), boxes, categories))
    return FolderContent(splits, layout.names, "cxcywh_normalised", notes)


def _pictures_of(files: SetFiles, layout: YoloLayout, notes: list[str]) -> dict[str, list[str]]:
    """Pictures of each split."""
    if not layout.entries:
        for pattern in ("images/{}", "{}/images", "{}"):
            folders = {split: files.match(pattern.format(split)) for split in SPLIT_NAMES}
            found = {split: files.pictures(folder) for split, folder in folders.items() if folder}
            if any(found.values()):
                return {split: pictures for split, pictures in found.items() if pictures}
        return {"": files.pictures(files.match("images") or "")}
    result = {}
    for split, entries in layout.entries.items():
        paths = {entry: _resolve(entry, files, layout) for entry in entries}
        missing = [entry for entry, path in paths.items() if path is None]
        if missing and split == "test" and "train" in layout.entries:  # exports name one that they do not have
            notes.append(f"{layout.source.name} names the test split {missing[0]!r}, which is not there")
            continue
        if missing:
            wanted = "/".join(clean_parts(missing[0]))
            near = difflib.get_close_matches(wanted, [path for path in files.folders if path], n=1)
            there = "".join(f"; there is {path}" for path in near)
            problem = f"names {shown(missing[0], repr)} for {split}, which is not in {files.root}{there}"
            remedy = "correct it, or delete the line (without an evaluation split a fifth of the pictures is held out)"
            raise ValueError(f"{layout.source} {problem}: {remedy}.")
        result[split] = [image for entry in entries for image in _images(paths[entry], files)]
    return result


def _resolve(entry: str, files: SetFiles, layout: YoloLayout) -> str | None:
    """The folder, list or picture that a description means, which tools write relative to several places.

    One that is out of the set's folder or far below it is listed now, with its labels: the user's own text names it.
    """
    here = os.path.abspath(layout.source.parent)
    places = (os.path.normpath(os.path.join(here, base, entry)) for base in (layout.base, "."))
    place = next(filter(os.path.exists, places), None)
    if place is not None:
        path = os.path.relpath(place, files.root).replace(os.sep, "/")
        if path == ".":
            return ""
        if path not in files.files and path not in files.folders:
            folder = place if os.path.isdir(place) else os.path.dirname(place)
            if os.path.dirname(folder) == folder:
                raise ValueError(f"{layout.source} names {entry!r}, the whole disk: give the folder of the pictures.")
            for labelled in _label_places(f"{folder}/picture".replace(os.sep, "/")):  # the last is beside it
                files.add(os.path.dirname(labelled))
        if path in files.files or path in files.folders:
            return path
    within = clean_parts(os.path.relpath(here, os.path.abspath(files.root)))
    parts, base = clean_parts(entry), clean_parts(layout.base)
    # Roboflow writes ../train/images for train/images; of a path on another machine the end may be the same here
    candidates = [[*within, *base, *parts], [*within, *parts], *(parts[start:] for start in range(len(parts)))]
    found = (files.match("/".join(candidate)) for candidate in candidates if candidate)
    return next(filter(None, found), None) or (files.find(entry) if entry.lower().endswith(".txt") else None)


def _images(path: str, files: SetFiles) -> list[str]:
    """Pictures of a folder, or of a text file with a path a line."""
    if path not in files.files or is_picture(path):
        return [path] if path in files.files else files.pictures(path)
    images = []
    for line in filter(None, map(str.strip, read_text(files.path(path)).split("\n"))):
        joined = re.search(r"\.(jpe?g|png|bmp)\w*[/\\]", line, re.IGNORECASE)  # two lines without a line end
        image = None if joined else files.find(line, [os.path.dirname(path), ""])
        if image is None:
            problem = f"lists {shown(line, repr)}, which is not in {files.root}"
            raise ValueError(f"{files.path(path)} {problem}{files.hint(line)}.")
        images.append(image)
    return images


def _label_places(image: str) -> list[str]:
    """Where a picture's labels may be."""
    *folders, name = os.path.splitext(image)[0].split("/")
    at = [i for i, part in enumerate(folders) if part.lower() in ("images", "image", "jpegimages")][-1:]
    places = [[*folders[:i], labels, *folders[i + 1 :]] for i in at for labels in ("labels", "label")]
    return ["/".join([*place, name + ".txt"]) for place in [*places, folders]]


def _label_file(image: str, files: SetFiles) -> str | None:
    return next((path for place in _label_places(image) if (path := files.match(place)) in files.files), None)


def _objects(
    labels: Iterable[str], layout: YoloLayout, notes: list[str]
) -> dict[str, tuple[list[list[float]], list[int]]]:
    """Boxes and classes of each label file."""
    lines: list[Line] = []
    for file in labels:
        for number, text in enumerate(read_text(file).split("\n"), 1):
            try:
                values = [float(value) for value in text.split()]
            except ValueError as error:
                raise ValueError(f"{file}, line {number} ({text.strip()[:60]!r}): not numbers: {LINE}.") from error
            if values:
                lines.append((file, number, values))
                if len(values) < 5 or not values[0].is_integer():
                    _refuse(lines[-1])
    are_polygons = _are_polygons(lines, layout, notes)
    objects = {file: ([], []) for file in labels}
    for file, number, values in lines:
        category, box = int(values[0]), values[1:5]
        if category not in layout.names:
            named = list(layout.names)[:20]
            raise ValueError(f"{file}, line {number}: class {category} is none of the named {named}.")
        if len(values) > 5 and are_polygons:
            if len(values) % 2 == 0 or len(values) < 7:
                _refuse((file, number, values))
            corners = np.array(values[1:]).reshape(-1, 2)
            if not (np.abs(corners - 0.5) <= 1).all():  # those of rotated boxes may leave the picture
                _refuse((file, number, values), "corners of a polygon are far outside of the picture: ")
            low, high = corners.min(0), corners.max(0)
            box = [*((low + high) / 2).tolist(), *(high - low).tolist()]
        objects[file][0].append(box)
        objects[file][1].append(category)
    return objects


def _refuse(line: Line, problem: str = "") -> NoReturn:
    text = " ".join(f"{value:g}" for value in line[2])[:60]
    raise ValueError(f"{line[0]}, line {line[1]} ({text!r}): {problem}{LINE}.")


def _are_polygons(lines: list[Line], layout: YoloLayout, notes: list[str]) -> bool:
    """Whether lines of more than five numbers are polygons, not boxes with keypoints or a score, in all files alike."""
    longer = [line for line in lines if len(line[2]) > 5]
    counts = {len(values) for _, _, values in longer}
    if longer and layout.keypoints:
        shape, expected = list(layout.keypoints), 5 + layout.keypoints[0] * layout.keypoints[1]
        for line in longer:
            if len(line[2]) != expected:
                _refuse(line, f"with kpt_shape={shape} a line has {expected} numbers: ")
        notes.append(f"keypoints (kpt_shape {shape}) are left out, boxes are taken")
        return False
    tracks = [values[6] for _, _, values in longer if len(values) == 7]
    is_scored = counts == {6} or 0 < len(longer) == len(lines) and counts <= {6, 7}  # no polygon has six
    if is_scored and all(map(float.is_integer, tracks)) and max(tracks, default=2) > 1:
        notes.append("the sixth number of the lines, a score, is left out" + ", and so is the track" * bool(tracks))
        return False
    if layout.keypoints is None and len(counts) == 1:
        numbers = np.array([values for _, _, values in longer])
        count = numbers.shape[1] - 5
        if count % 3 == 0 and np.isin(numbers[:, 7::3], (0, 1, 2)).all() and _are_boxes(numbers, 3):
            notes.append(f"lines are boxes with {count // 3} keypoints (x, y, visible), which are left out")
            return False
        if count % 2 == 0 and _are_boxes(numbers, 2):
            file, number, _ = longer[0]
            lines_of, points = f"all {len(longer)} lines of {numbers.shape[1]} numbers", count // 2
            problem = f"{lines_of} can be boxes with {points} keypoints as well as polygons"
            remedy = f"write `kpt_shape: [{points}, 2]` into data.yaml if they are keypoints, `kpt_shape: []`"
            raise ValueError(f"{file}, line {number}: {problem}: {remedy} if they are polygons.")
    return True


def _are_boxes(numbers: np.ndarray, step: int) -> bool:
    """Whether all lines can be boxes with keypoints: boxes within the picture, around their visible keypoints."""
    center, size = numbers[:, 1:3], numbers[:, 3:5]
    low, high = center - size / 2, center + size / 2
    if (low < -SLACK).any() or (high > 1 + SLACK).any() or (size <= 0).any():
        return False
    points = numbers[:, 5:].reshape(len(numbers), -1, step)
    seen = (points[..., 2] > 0) if step == 3 else (points != 0).any(-1)
    slack = SLACK + 0.1 * size[:, None]
    inside = (points[..., :2] >= low[:, None] - slack) & (points[..., :2] <= high[:, None] + slack)
    return bool((inside.all(-1) | ~seen).all())
