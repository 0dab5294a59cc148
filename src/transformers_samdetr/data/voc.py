"""PASCAL VOC's XML files, one for each picture, in VOC's folders or any others."""

import os
from array import array
from collections import defaultdict

from ..annotations import shown
from .schema import AnnotatedPicture, AnnotatedPictures, FolderContent, side_of
from .source_files import SPLIT_NAMES, SetFiles, folded, is_picture, picture_size, read_text, read_xml, split_in, stem

CORNERS = ("xmin", "ymin", "xmax", "ymax")
PICTURE_FOLDERS = ("JPEGImages", "images", "Images")


def find_voc(files: SetFiles) -> dict[str, list[str]]:
    """XML files by split, of `ImageSets/Main` or folders train, val, …, `""` without; empty for other layouts."""
    paths = files.with_suffix(".xml")
    while paths:  # all of a folder are of one kind, so that one of them tells
        folder = os.path.dirname(paths[0])
        try:
            kind = read_xml(files.path(paths[0])).tag
        except ValueError:  # an error of `read_voc`
            break
        if kind == "annotation":
            break
        tool = "CVAT's own XML" if kind == "annotations" else f"no annotation of VOC, but <{kind}>"
        files.passed_over.append(f"{paths[0]} is {tool}; export the set as COCO, YOLO or PASCAL VOC")
        paths = [path for path in paths if os.path.dirname(path) != folder]
    else:
        return {}
    main = files.match(f"{os.path.dirname(folder)}/ImageSets/Main".lstrip("/"))
    lists = {split: f"{main}/{split}.txt" for split in SPLIT_NAMES if main}
    found = {split: _listed(files, path, folder) for split, path in lists.items() if path in files.files}
    if "train" in found:
        found.pop("trainval", None)
    if found:
        return found
    splits: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: path.split("/")):
        folders = path.split("/")[:-1]
        named = [part for part in folders if part.lower() in SPLIT_NAMES] or [*filter(None, map(split_in, folders))]
        splits[named[0] if named else ""].append(path)
    return {"": sorted(paths, key=lambda path: path.split("/"))} if "" in splits else dict(splits)


def _listed(files: SetFiles, path: str, folder: str) -> list[str]:
    """The XML files of a list with a picture's name, or `name 1`, in each line."""
    found = []
    for line in filter(None, map(str.strip, read_text(files.path(path)).split("\n"))):
        names = [os.path.basename(line.replace("\\", "/"))]  # alone: a list is no way out of the folder
        if is_picture(names[0]) or names[0].lower().endswith(".xml"):
            names.append(stem(names[0]))
        if line.split()[-1] in ("-1", "0", "1"):
            names.append(line.rpartition(line.split()[-1])[0].strip())
        file = next((f for name in names if (f := f"{folder}/{name}.xml".lstrip("/")) in files.files), None)
        file = file or next((f for name in names if (f := files.find(f"{name}.xml", [folder]))), None)
        if file is None or line.startswith(("/", "../")):
            missing = shown(f"{names[-1]}.xml")
            raise ValueError(f"{files.path(path)} lists {shown(line, repr)}, but there is no {missing} in {folder}.")
        found.append(file)
    return found


def read_voc(files: SetFiles, chosen: dict[str, list[str]]) -> FolderContent:
    """Pictures and objects of the XML files of each split, as `find_voc` returns them.

    VOC counts pixels from 1 and both ends of a box belong to it, so 1 is subtracted from its left and its top. Where a
    box starts at 0, the set was made by a tool that counts from 0, and boxes are left as they are. Objects marked
    difficult are objects like others. Classes are numbered by their names' order. Raises a ValueError that names the
    file where it is no XML, an object has no name or box, or a picture is missing.
    """
    disagree: list[str] = []
    splits = {split: AnnotatedPictures() for split in chosen}
    for split, paths in chosen.items():
        for path in paths:
            splits[split].add(_read(path, files, disagree))
    corners = [corner for pictures in splits.values() for i in (0, 1) for corner in pictures.boxes[i::4]]
    from_one = bool(corners) and all(not corner < 1 for corner in corners)  # NaN tells nothing
    if from_one:
        for pictures in splits.values():
            for i in (0, 1):
                pictures.boxes[i::4] = array("d", [corner - 1 for corner in pictures.boxes[i::4]])
    names = sorted({name for pictures in splits.values() for name in pictures.categories})
    if not names:
        raise ValueError(f"The XML files of {files.root} hold no objects.")
    notes = [f"pixels counted from {int(from_one)}, as the boxes' lowest corner tells"]
    if disagree:
        another = "name another picture in <filename> than that of their own name, which is taken"
        notes.append(f"{len(disagree)} XML files {another}: {', '.join(disagree[:3])}")
    return FolderContent(splits, {name: name for name in names}, "xyxy", notes)


def _read(path: str, files: SetFiles, disagree: list[str]) -> AnnotatedPicture:
    """The picture of the XML file's own name, otherwise of its `<filename>`, with the boxes as they stand in the file.

    `<filename>` stays what it was when files are renamed, and so often names another; `disagree` gets the path then.
    """
    file = files.path(path)
    root = read_xml(file)
    names, boxes = [], []
    for number, entry in enumerate(root.iter("object"), 1):
        name, box, polygon = (entry.findtext("name") or "").strip(), entry.find("bndbox"), entry.find("polygon")
        try:
            if box is None and polygon is not None:  # as Labelbox writes it, with x1, y1, x2, ...
                x, y = ([float(point.text) for point in polygon if point.tag.startswith(axis)] for axis in "xy")
                boxes.append([min(x), min(y), max(x), max(y)])
            else:
                boxes.append([float(box.findtext(corner)) for corner in CORNERS])
        except (AttributeError, TypeError, ValueError) as error:
            needed = ", ".join(CORNERS)
            raise ValueError(f"{file}: object {number} needs a bndbox with numbers for {needed}.") from error
        if not name:
            raise ValueError(f"{file}: object {number} has no name.")
        names.append(name)
    folder, own_stem, file_name = os.path.dirname(path), stem(path), (root.findtext("filename") or "").strip()
    parts, above = folder.split("/"), os.path.dirname(folder)
    places = [i for i, part in enumerate(parts) if part.lower().startswith(("annot", "xml", "label"))]
    # images/train for annotations/train, then those beside the folder
    parallel = ["/".join([*parts[:i], images, *parts[i + 1 :]]) for i in places for images in PICTURE_FOLDERS]
    folders = [folder, *parallel, *(f"{above}/{name}".strip("/") for name in (*PICTURE_FOLDERS, ""))]
    named = files.find(file_name, folders)
    named = named if named is not None and is_picture(named) else None

    def rank(picture: str) -> tuple:
        place = folders.index(os.path.dirname(picture)) if os.path.dirname(picture) in folders else len(folders)
        return place, stem(picture) != own_stem, picture != named, picture

    own = min(filter(is_picture, files.by_stem.get(folded(own_stem), ())), key=rank, default=named)
    if own is None:
        wanted = file_name or own_stem
        problem = f"{file} belongs to {shown(wanted)}, and no picture in {files.root} has this name"
        raise ValueError(f"{problem}, or that of the XML file{files.hint(wanted)}.")
    if named is not None and folded(stem(named)) != folded(stem(own)):
        disagree.append(path)
    width, height = (side_of(root.findtext(f"size/{side}") or 0, side, file) for side in ("width", "height"))
    size = (width, height) if width and height else picture_size(files.path(own))
    return AnnotatedPicture(files.path(own), None, *size, boxes, names)
