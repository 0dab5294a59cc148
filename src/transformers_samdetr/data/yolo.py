"""Folders in the layouts of YOLO: Ultralytics' `data.yaml`, darknet's `obj.data`, or labels and a list of classes.

A line of a label file is a class and four shares of the picture (center x, center y, width, height). Longer lines are
corners of a polygon, a box with keypoints, or a box with its score, as the YAML file or the numbers of all lines tell.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations import shown
from .schema import AnnotatedPicture, AnnotatedPictures, FolderContent
from .source_files import (
    SPLIT_FOLDERS,
    SetFiles,
    clean_parts,
    is_picture,
    picture_size,
    read_text,
    read_yaml,
    require_utf8,
)

SPLITS = ("train", "val", "valid", "validation", "test")
NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names", "_darknet.labels", "predefined_classes.txt")
NOTHING = ("", "null", "~", "None")
SLACK = 0.01
"""How far a share may be outside of the picture by rounding."""


@dataclass(frozen=True)
class YoloLayout:
    """A description of a set, not yet followed.

    Attributes:
        source: the file or folder that describes it, named in errors.
        names: class of each number.
        entries: folders, lists of pictures, or pictures of each split, as they are written; empty for all pictures.
        base: folder that the entries are written relative to, by the description.
        keypoints: `kpt_shape`, the number of keypoints and their numbers; () for polygons; None where nothing is said.
    """

    source: Path
    names: dict[int, str]
    entries: dict[str, list[str]]
    base: str = "."
    keypoints: tuple[int, ...] | None = None


def find_yolo(files: SetFiles, passed_over: list[str], given: str | None = None) -> YoloLayout | None:
    """The description of a YOLO set; None for other layouts.

    Args:
        files: of the set.
        passed_over: gets a line for each file that could have been one, and why it is not.
        given: the YAML or `.data` file that was asked for.

    Raises:
        ValueError: a description is damaged, or there are labels without names of classes.
    """
    candidates = [given] if given else sorted(files.with_suffix(".yaml", ".yml", ".data"), key=_depth)
    for path in candidates:
        if given is None and path.count("/") > 1:
            continue
        try:
            layout = (_of_darknet if path.endswith(".data") else _of_yaml)(path, files, passed_over)
        except ValueError as error:
            if given or "/" not in path:
                raise
            passed_over.append(str(error))
            continue
        if layout is not None:
            return layout
    texts = files.with_suffix(".txt")
    named = [path for path in texts + files.with_suffix(".names", ".labels") if os.path.basename(path) in NAME_FILES]
    labels = [path for path in texts if "labels" in path.split("/")[:-1]]
    if texts and not labels:
        labels = [label for image in files.pictures() if (label := _label_file(image, files)) is not None]
    if labels and named:
        names = min(named, key=lambda path: (path.count("/"), NAME_FILES.index(os.path.basename(path))))
        return YoloLayout(files.root, _names_in(Path(files.path(names))), {})
    if labels and re.match(r"[A-Za-z]+[ \t]", read_text(files.path(labels[0]))):
        passed_over.append(f"{labels[0]} begins with a word, as KITTI's label files do")
    elif labels:
        passed_over.append(
            f"{labels[0]} is a label file, but the set does not name the classes: add a data.yaml with `train: images` "
            "and `names: [...]`, or a classes.txt with a name a line"
        )
    elif texts:
        passed_over.append(f"{texts[0]} has not the name of a picture, and lies in no folder `labels`")
    return None


def _depth(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _of_yaml(name: str, files: SetFiles, passed_over: list[str]) -> YoloLayout | None:
    path = Path(files.path(name))
    content = read_yaml(path)
    if not isinstance(content, dict) or "names" not in content or not any(content.get(split) for split in SPLITS):
        passed_over.append(f"{name} has no `names` with `train` or `val`")
        return None
    base = content.get("path", ".")
    if not isinstance(base, str):
        raise ValueError(f"{path} has for path a {type(base).__name__}: give the folder that the others are in.")
    entries = {}
    for split in SPLITS:
        value = content.get(split, "")
        if isinstance(value, str):
            value = [] if value in NOTHING else [value]
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"{path} has for {split} a {type(value).__name__}: give a path, or a list of paths.")
        entries |= {split: value} if value else {}
    return YoloLayout(path, _names(content["names"], path), entries, base, _keypoints(content.get("kpt_shape"), path))


def _names(names: Any, path: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values()):
        try:
            numbered = {int(key): name for key, name in names.items()}
        except ValueError:
            numbered = {}
        if len(numbered) == len(names) and all(abs(number) < 2**31 for number in numbered):
            return {number: numbered[number] for number in sorted(numbered)}
    if isinstance(names, str) and (path.parent / names).is_file() and ".." not in Path(names).parts:
        return _names_in(path.parent / names)
    raise ValueError(
        f"{path} has names={shown(names, repr)}: give a list of class names, or a mapping of class number to name."
    )


def _keypoints(shape: Any, path: Path) -> tuple[int, ...] | None:
    if shape is None or shape == [] or isinstance(shape, str) and shape in NOTHING:
        return None if shape is None else ()
    try:
        count, numbers = map(int, shape)
    except (TypeError, ValueError):
        count, numbers = 0, 0
    if count < 1 or numbers not in (2, 3):
        raise ValueError(f"{path} has kpt_shape={shown(shape, repr)}: give [number of keypoints, 2 or 3], or no shape.")
    return count, numbers


def _names_in(path: Path) -> dict[int, str]:
    """Classes of a file with a name a line, numbered by the lines."""
    names = {number: line.strip() for number, line in enumerate(read_text(path).split("\n")) if line.strip()}
    if not names:
        raise ValueError(f"{path} is empty: write the name of a class in each line.")
    return names


def _of_darknet(name: str, files: SetFiles, passed_over: list[str]) -> YoloLayout | None:
    """What darknet's `obj.data` describes: `train = …`, `valid = …`, `names = …`."""
    path = Path(files.path(name))
    lines = [line.partition("=") for line in read_text(path).split("\n") if "=" in line]
    values = {key.strip(): value.strip() for key, _, value in lines}
    names = files.find(values.get("names", ""), [name.rpartition("/")[0], ""])
    if names is None:
        passed_over.append(f"{name} has no line `names = …` with a file that is there")
        return None
    entries = {split: [values[split]] for split in SPLITS if values.get(split)}
    return YoloLayout(path, _names_in(Path(files.path(names))), entries, ".", ())


def read_yolo(files: SetFiles, layout: YoloLayout) -> FolderContent:
    """Pictures and labels that a YOLO set describes.

    A picture's labels are in the file of its name with `labels` for the last `images` (or `JPEGImages`) of its path, or
    beside it; without one it has no objects. Of a polygon the box around it is taken.

    Raises:
        ValueError: a folder is missing, or a line does not fit; the message names the file.
    """
    notes: list[str] = []
    files = _files_of(files, layout)
    found = _pictures_of(files, layout, notes)
    empty = [split for split, paths in found.items() if not paths]
    if empty or not found:
        entries = [str(entry) for split in empty for entry in layout.entries.get(split, [split])]
        raise ValueError(f"{layout.source}: no pictures in {', '.join(entries) or files.root}.")
    for paths in found.values():
        require_utf8(paths)
    labels = {split: [_label_file(image, files) for image in images] for split, images in found.items()}
    if not any(label for paths in labels.values() for label in paths):
        image = next(iter(found.values()))[0]
        raise ValueError(
            f"{layout.source}: none of the pictures has a label file; for {image}, looked for "
            f"{' and '.join(_label_places(image))}."
        )
    lines = [_Lines(files, label) for paths in labels.values() for label in paths if label]
    reading = _Reading.of(lines, layout, notes)
    by_label = {line.path: line for line in lines}
    splits = {}
    for split, images in found.items():
        splits[split] = pictures = AnnotatedPictures()
        for image, label in zip(images, labels[split], strict=True):
            categories, boxes = reading.objects(by_label[label], layout.names) if label else ([], [])
            path = files.path(image)
            pictures.add(AnnotatedPicture(path, None, *picture_size(path), boxes, categories))
    return FolderContent(splits, dict(layout.names), "cxcywh_normalised", notes)


def _files_of(files: SetFiles, layout: YoloLayout) -> SetFiles:
    """The files of the set, whose pictures may be elsewhere than its description."""
    places = [place for entries in layout.entries.values() for entry in entries for place in _places(entry, layout)]
    places = [os.path.dirname(place) if os.path.isfile(place) else place for place in places]
    tops = [place.rpartition(f"{os.sep}images")[0] or place for place in places]  # labels are beside images
    if all(Path(top).is_relative_to(os.path.normpath(files.root)) for top in tops):
        return files
    root = Path(os.path.commonpath(tops))
    if root == Path(root.anchor):
        raise ValueError(
            f"{layout.source} names folders without a common parent, {shown(places)}: bring them together."
        )
    return SetFiles(root)


def _places(entry: str, layout: YoloLayout) -> list[str]:
    """The path that an entry means on this machine, if there is something at it."""
    here = os.path.abspath(layout.source if layout.source.is_dir() else layout.source.parent)
    places = [os.path.normpath(os.path.join(here, base, entry)) for base in (layout.base, ".")]
    return [place for place in places if os.path.exists(place)][:1]


def _pictures_of(files: SetFiles, layout: YoloLayout, notes: list[str]) -> dict[str, list[str]]:
    """Pictures of each split."""
    if not layout.entries:
        for pattern in ("images/{}", "{}/images", "{}"):
            found = {split: files.folder(pattern.format(split)) for split in SPLIT_FOLDERS}
            pictures = {split: files.pictures(path) for split, path in found.items() if path is not None}
            pictures = {split: paths for split, paths in pictures.items() if paths}
            if pictures:
                return pictures
        folder = files.folder("images")
        return {"": files.pictures(folder or "")}
    result = {}
    for split, entries in layout.entries.items():
        resolved = [_resolve(entry, files, layout) for entry in entries]
        missing = [entry for entry, path in zip(entries, resolved, strict=True) if path is None]
        if missing and split == "test" and "train" in layout.entries:  # exports name one that they do not have
            notes.append(f"{layout.source.name} names the test split {missing[0]!r}, which is not there")
            continue
        if missing:
            wanted = "/".join(clean_parts(missing[0]))
            near = difflib.get_close_matches(wanted, [path for path in files.folders if path], n=1)
            raise ValueError(
                f"{layout.source} names {shown(missing[0], repr)} for {split}, which is not in {files.root}"
                + "".join(f"; there is {path}" for path in near)
                + ": correct it, or delete the line (without an evaluation split a fifth of the pictures is held out)."
            )
        result[split] = [image for path in resolved if path is not None for image in _images(path, files)]
    return result


def _resolve(entry: str, files: SetFiles, layout: YoloLayout) -> str | None:
    """The folder, list or picture of the set that a description means, which tools write relative to several places."""
    candidates = [os.path.relpath(place, os.path.abspath(files.root)) for place in _places(entry, layout)]
    here = Path(os.path.abspath(layout.source)).parent
    within = (
        here.relative_to(os.path.abspath(files.root)).as_posix() if here.is_relative_to(files.root.absolute()) else ""
    )
    parts, base = clean_parts(entry), clean_parts(layout.base)
    # Roboflow writes ../train/images for train/images; of a path on another machine the end may be the same here
    candidates += ["/".join([within, *base, *parts]), "/".join([within, *parts])]
    candidates += ["/".join(parts[start:]) for start in range(len(parts))]
    for candidate in candidates:
        path = "/".join(clean_parts(candidate))
        if path in files.files:
            return path
        folder = files.folder(path)
        if folder is not None and (path or candidate == "."):
            return folder
    return files.find(entry) if entry.lower().endswith(".txt") else None


def _images(path: str, files: SetFiles) -> list[str]:
    """Pictures of a folder, or of a text file with a path a line."""
    if path not in files.files:
        return files.pictures(path)
    if is_picture(path):
        return [path]
    folder = path.rpartition("/")[0]
    images = []
    for line in read_text(files.path(path)).split("\n"):
        if not line.strip():
            continue
        joined = re.search(r"\.(jpe?g|png|bmp)\w*[/\\]", line, re.IGNORECASE)  # two lines without a line end
        image = None if joined else files.find(line.strip(), [folder, ""])
        if image is None:
            near = files.similar(line.strip())
            raise ValueError(
                f"{files.path(path)} lists {shown(line.strip(), repr)}, which is not in {files.root}"
                + (f"; there is {near}" if near else "")
                + "."
            )
        images.append(image)
    return images


def _label_places(image: str) -> list[str]:
    """Where a picture's labels may be."""
    *folders, name = os.path.splitext(image)[0].split("/")
    at = [i for i, part in enumerate(folders) if part.lower() in ("images", "image", "jpegimages")][-1:]
    places = [[*folders[:i], labels, *folders[i + 1 :]] for i in at for labels in ("labels", "label")]
    return ["/".join([*place, name + ".txt"]) for place in [*places, folders]]


def _label_file(image: str, files: SetFiles) -> str | None:
    return next((path for place in _label_places(image) if (path := files.match(place)) is not None), None)


class _Lines:
    """Numbers of the lines of a label file.

    Args:
        files: of the set.
        path: of the file.

    Raises:
        ValueError: a line holds something else than numbers, or fewer than five.
    """

    def __init__(self, files: SetFiles, path: str):
        self.path, self.file = path, files.path(path)
        self.rows: list[tuple[int, list[float]]] = []
        for number, line in enumerate(read_text(self.file).split("\n"), 1):
            if line.strip():
                try:
                    values = [float(value) for value in line.split()]
                except ValueError as error:
                    raise ValueError(f"{self.where(number, line)}: not numbers.") from error
                if len(values) < 5 or not values[0].is_integer():
                    self.refuse(number, values)
                self.rows.append((number, values))

    def where(self, number: int, line: object = "") -> str:
        """What errors call a line."""
        return f"{self.file}, line {number} ({str(line).strip()[:60]!r})"

    def refuse(self, number: int, values: Sequence[float], problem: str = "") -> None:
        """Raises the error of a line that does not fit."""
        line = " ".join(f"{value:g}" for value in values)
        raise ValueError(
            f"{self.where(number, line)}: {problem}give the class, an integer, and center x, center y, width and "
            "height, or corners of a polygon, as shares of the picture."
        )


@dataclass(frozen=True)
class _Reading:
    """What lines of more than five numbers are in a set: `polygons`, `keypoints` or `scores`."""

    kind: str

    @classmethod
    def of(cls, lines: Sequence[_Lines], layout: YoloLayout, notes: list[str]) -> "_Reading":
        """Decides for all lines together.

        Raises:
            ValueError: lines could be polygons as well as boxes with keypoints.
        """
        longer = [(file, number, values) for file in lines for number, values in file.rows if len(values) > 5]
        if not longer:
            return cls("polygons")
        counts = {len(values) for _, _, values in longer}
        if layout.keypoints:
            expected = 5 + layout.keypoints[0] * layout.keypoints[1]
            file, number, values = next((line for line in longer if len(line[2]) != expected), longer[0])
            if len(values) != expected:
                file.refuse(number, values, f"with kpt_shape={list(layout.keypoints)} a line has {expected} numbers: ")
            notes.append(f"keypoints (kpt_shape {list(layout.keypoints)}) are left out, boxes are taken")
            return cls("keypoints")
        bare = any(len(values) == 5 for file in lines for _, values in file.rows)
        tracks = [values[6] for _, _, values in longer if len(values) == 7]
        if not bare and counts <= {6, 7} and all(track.is_integer() for track in tracks) and max(tracks, default=2) > 1:
            notes.append("the sixth number of the lines, a score, is left out" + ", and so is the track" * bool(tracks))
            return cls("scores")
        if layout.keypoints is None and len(counts) == 1:
            numbers = np.array([values for _, _, values in longer])
            count = numbers.shape[1] - 5
            if count % 3 == 0 and np.isin(numbers[:, 7::3], (0, 1, 2)).all() and _are_boxes(numbers, 3):
                notes.append(f"lines are boxes with {count // 3} keypoints (x, y, visible), which are left out")
                return cls("keypoints")
            if count % 2 == 0 and _are_boxes(numbers, 2):
                file, number, _ = longer[0]
                raise ValueError(
                    f"{file.file}, line {number}: all {len(longer)} lines of {numbers.shape[1]} numbers can be boxes "
                    f"with {count // 2} keypoints as well as polygons: write `kpt_shape: [{count // 2}, 2]` into "
                    "data.yaml if they are keypoints, `kpt_shape: []` if they are polygons."
                )
        return cls("polygons")

    def objects(self, lines: _Lines, names: Mapping[int, str]) -> tuple[list[int], list[list[float]]]:
        """Classes and boxes of a label file."""
        categories, boxes = [], []
        for number, values in lines.rows:
            category = int(values[0])
            if category not in names:
                raise ValueError(
                    f"{lines.file}, line {number}: class {category} is none of the named {list(names)[:20]}."
                )
            categories.append(category)
            if len(values) == 5 or self.kind != "polygons":
                boxes.append(values[1:5])
                continue
            if len(values) % 2 == 0 or len(values) < 7:
                lines.refuse(number, values)
            corners = np.array(values[1:]).reshape(-1, 2)
            if not (np.abs(corners - 0.5) <= 1).all():  # those of rotated boxes may leave the picture
                lines.refuse(number, values, "corners of a polygon are far outside of the picture: ")
            low, high = corners.min(0), corners.max(0)
            boxes.append([*((low + high) / 2).tolist(), *(high - low).tolist()])
        return categories, boxes


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
