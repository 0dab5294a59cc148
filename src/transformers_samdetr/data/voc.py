"""PASCAL VOC's XML files, one for each picture, in VOC's folders or any others."""

import os
from collections import defaultdict

from ..annotations import shown
from .schema import AnnotatedPicture, AnnotatedPictures, FolderContent, side_of
from .source_files import SPLIT_FOLDERS, SetFiles, folded, is_picture, picture_size, read_text, read_xml, split_in

LISTS = ("train", "val", "valid", "validation", "test", "trainval")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
OTHER_ROOTS = {
    "annotations": "CVAT's own XML; export the set as COCO, YOLO or PASCAL VOC",
    "dataset": "an XML of another tool; export the set as COCO, YOLO or PASCAL VOC",
}


def find_voc(files: SetFiles, passed_over: list[str]) -> dict[str, list[str]]:
    """XML files of each split, `""` for a set without splits; empty for other layouts.

    The splits are those of `ImageSets/Main`, or of folders called train, val, test and so on.

    Args:
        files: of the set.
        passed_over: gets a line for the XML files that are no annotations, and why.

    Raises:
        ValueError: a list names a file that is not there.
    """
    paths = files.with_suffix(".xml")
    while paths:  # all of a folder are of one kind, so that one of them tells
        kind = _root_of(files.path(paths[0]))
        if kind in ("annotation", ""):
            break
        passed_over.append(f"{paths[0]}: it is {OTHER_ROOTS.get(kind, f'no annotation of VOC, but <{kind}>')}")
        folder = paths[0].rpartition("/")[0]
        paths = [path for path in paths if path.rpartition("/")[0] != folder]
    if not paths:
        return {}
    folder = paths[0].rpartition("/")[0]
    above = folder.rpartition("/")[0]
    main = files.folder(f"{above}/ImageSets/Main")
    if main is not None:
        lists = {split: f"{main}/{split}.txt" for split in LISTS}
        found = {split: _listed(files, path, folder) for split, path in lists.items() if path in files.files}
        if "train" in found:
            found.pop("trainval", None)
        if found:
            return found
    splits: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        parts = path.split("/")[:-1]
        splits[next((part for part in parts if part.lower() in SPLIT_FOLDERS), "")].append(path)
    if not splits.keys() - {""} or splits[""]:
        by_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            by_name[next((s for part in path.split("/")[:-1] if (s := split_in(part))), "")].append(path)
        splits = by_name if "" not in by_name else {"": paths}
    return {split: sorted(found, key=lambda path: path.split("/")) for split, found in splits.items() if found}


def _root_of(path: str) -> str:
    """The name of an XML file's outermost element; `""` where it cannot be read, which is an error later."""
    try:
        return read_xml(path).tag
    except ValueError:
        return ""


def _listed(files: SetFiles, path: str, folder: str) -> list[str]:
    """The XML files of a list with a picture's name, or `name 1`, in each line."""
    found = []
    for line in filter(None, map(str.strip, read_text(files.path(path)).split("\n"))):
        names = [line.replace("\\", "/").rpartition("/")[2]]
        if is_picture(names[0]) or names[0].lower().endswith(".xml"):
            names.append(os.path.splitext(names[0])[0])
        if line.split()[-1] in ("-1", "0", "1"):
            names.append(line.rpartition(line.split()[-1])[0].strip())
        # a file's name alone: a list is no way out of the folder
        file = next((f for name in names if (f := f"{folder}/{name}.xml".lstrip("/")) in files.files), None)
        file = file or next((f for name in names if (f := files.find(f"{name}.xml", [folder]))), None)
        if file is None or "/" in line and line.startswith(("/", "..")):
            missing = shown(f"{names[-1]}.xml")
            raise ValueError(f"{files.path(path)} lists {shown(line, repr)}, but there is no {missing} in {folder}.")
        found.append(file)
    return found


def read_voc(files: SetFiles, chosen: dict[str, list[str]]) -> FolderContent:
    """Pictures and objects of XML files.

    VOC counts pixels from 1 and both ends of a box belong to it, so 1 is subtracted from its left and its top. Where a
    box starts at 0, the set was made by a tool that counts from 0, and boxes are left as they are. Objects marked
    difficult are objects like others. Classes are numbered by their names' order.

    Args:
        files: of the set.
        chosen: paths of the XML files of each split, as `find_voc` returns them.

    Raises:
        ValueError: a file is no XML, an object has no name or box, or a picture is missing.
    """
    find = _PictureOf(files)
    splits = {}
    for split, paths in chosen.items():
        splits[split] = AnnotatedPictures()
        for path in paths:
            splits[split].add(_read(path, files, find))
    corners = [corner for pictures in splits.values() for i in (0, 1) for corner in pictures.boxes[i::4]]
    from_one = bool(corners) and all(not corner < 1 for corner in corners)  # NaN tells nothing
    if from_one:
        for pictures in splits.values():
            for i in range(0, len(pictures.boxes), 4):
                pictures.boxes[i] -= 1
                pictures.boxes[i + 1] -= 1
    names = sorted({name for pictures in splits.values() for name in pictures.categories})
    if not names:
        raise ValueError(f"The XML files of {files.root} hold no objects.")
    notes = [f"pixels counted from {int(from_one)}, as the boxes' lowest corner tells"]
    if find.disagree:
        notes.append(
            f"{len(find.disagree)} XML files name another picture in <filename> than that of their own name, which is "
            f"taken: {', '.join(find.disagree[:3])}"
        )
    return FolderContent(splits, {name: name for name in names}, "xyxy", notes)


class _PictureOf:
    """Finds the picture of an XML file: that of its own name, otherwise that in its `<filename>`.

    `<filename>` stays what it was when files are renamed or sets are put together, so that it often names another.

    Attributes:
        disagree: XML files whose `<filename>` is another picture of the set.
    """

    def __init__(self, files: SetFiles):
        self.files = files
        self.disagree: list[str] = []
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in files.pictures():
            self._by_stem[_stem(path)].append(path)

    def __call__(self, xml: str, file_name: str | None) -> str:
        """The picture's path.

        Raises:
            ValueError: there is none.
        """
        folder, _, name = xml.rpartition("/")
        stem = os.path.splitext(name)[0]
        above = folder.rpartition("/")[0]
        parallel = _with_pictures(folder)
        folders = [
            folder,
            *parallel,
            *(f"{above}/{name}".strip("/") for name in ("JPEGImages", "images", "Images", "")),
        ]
        named = None
        if file_name:
            named = self.files.find(file_name, folders)
            named = named if named is not None and is_picture(named) else None
        own = min(self._by_stem.get(folded(stem), []), key=lambda p: self._rank(p, stem, folders, named), default=None)
        if own is not None:
            if named is not None and _stem(named) != _stem(own):
                self.disagree.append(xml)
            return own
        if named is not None:
            return named
        near = self.files.similar(file_name or stem)
        raise ValueError(
            f"{self.files.path(xml)} belongs to {shown(file_name or stem)}, and no picture in {self.files.root} has "
            "this name, or that of the XML file" + (f"; there is {near}" if near else "") + "."
        )

    @staticmethod
    def _rank(path: str, stem: str, folders: list[str], named: str | None) -> tuple:
        """Of several pictures of one stem: that in the likely folder, in the same case, with the named suffix."""
        folder, _, name = path.rpartition("/")
        place = folders.index(folder) if folder in folders else len(folders)
        return place, os.path.splitext(name)[0] != stem, path != named, path


def _stem(path: str) -> str:
    return folded(os.path.splitext(path.rpartition("/")[2])[0])


def _with_pictures(folder: str) -> list[str]:
    """Folders of pictures that lie as a folder of XML files does, such as images/train for annotations/train."""
    parts = folder.split("/")
    places = [i for i, part in enumerate(parts) if part.lower().startswith(("annot", "xml", "label"))]
    return [
        "/".join([*parts[:i], images, *parts[i + 1 :]]) for i in places for images in ("JPEGImages", "images", "Images")
    ]


def _read(path: str, files: SetFiles, find: _PictureOf) -> AnnotatedPicture:
    """The picture with its boxes as they stand in the file."""
    file = files.path(path)
    root = read_xml(file)
    names, boxes = [], []
    for number, entry in enumerate(root.iter("object"), 1):
        name, box, polygon = (entry.findtext("name") or "").strip(), entry.find("bndbox"), entry.find("polygon")
        try:
            if box is None and polygon is not None:  # as Labelbox writes it, with x1, y1, x2, ...
                sides = [[float(point.text) for point in polygon if point.tag.startswith(axis)] for axis in "xy"]
                corners = [min(sides[0]), min(sides[1]), max(sides[0]), max(sides[1])]
            else:
                corners = [float(box.findtext(corner)) for corner in CORNERS]
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: object {number} needs a bndbox with numbers for {', '.join(CORNERS)}."
            ) from error
        if not name:
            raise ValueError(f"{file}: object {number} has no name.")
        names.append(name)
        boxes.append(corners)
    image = files.path(find(path, (root.findtext("filename") or "").strip()))
    width, height = (side_of(root.findtext(f"size/{side}") or 0, side, file) for side in ("width", "height"))
    if not width or not height:
        width, height = picture_size(image)
    return AnnotatedPicture(image, None, width, height, boxes, names)
