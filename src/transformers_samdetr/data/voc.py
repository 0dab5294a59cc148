"""Folders in the layout of PASCAL VOC: an XML file for each picture."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from ..annotations import shown
from ..pictures import PICTURE_SUFFIXES
from .schema import AnnotatedPicture, FolderContent, picture_size, side_of
from .source_files import read_text

SPLITS = ("train", "val", "valid", "validation", "test", "trainval")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(source: Path) -> Path | None:
    """The folder with `Annotations/`, or with XML files beside pictures, by split or not; None for other layouts."""
    if not source.is_dir():
        return None
    roots = [source, *sorted(source.glob("VOCdevkit/VOC*")), *sorted(source.glob("VOC*"))]
    for root in roots:
        if next((root / "Annotations").glob("*.xml"), None) is not None:
            return root
    folders = [source, *(source / split for split in SPLITS)]
    found = any(next(folder.glob("*.xml"), None) is not None for folder in folders if folder.is_dir())
    return source if found else None


def read_voc(source: Path) -> FolderContent:
    """Pictures and objects of XML files; `ImageSets/Main` or folders say which are for training.

    VOC counts pixels from 1 and both ends of a box belong to it, so that 1 is taken off its left and its top. Where a
    box starts at 0, the set was made by a tool that counts from 0, and boxes are left as they are. Objects marked
    difficult are objects like others. Classes are numbered by their names' order.

    Args:
        source: as `find_voc` found it.

    Raises:
        ValueError: a file is no XML, an object has no name or box, a listed file or a picture is missing.
    """
    files = _files(source)
    found = {split: [_read(path) for path in paths] for split, paths in files.items()}
    starts = [side for pictures in found.values() for _, boxes in pictures for box in boxes for side in box[:2]]
    from_one = bool(starts) and all(not side < 1 for side in starts)  # what is not a number tells nothing
    splits = {
        split: [
            AnnotatedPicture(
                image=picture.image,
                image_id=None,
                width=picture.width,
                height=picture.height,
                boxes=[(x1 - from_one, y1 - from_one, x2, y2) for x1, y1, x2, y2 in boxes],
                categories=picture.categories,
            )
            for picture, boxes in pictures
        ]
        for split, pictures in found.items()
    }
    names = sorted({name for pictures in splits.values() for picture in pictures for name in picture.categories})
    if not names:
        raise ValueError(f"The XML files of {source} hold no objects.")
    note = f"pixels counted from {int(from_one)}, as the boxes' lowest corner tells"
    return FolderContent(splits, {name: name for name in names}, "xyxy", [note])


def _files(source: Path) -> dict[str, list[Path]]:
    """XML files of each split."""
    annotations = source / "Annotations"
    if annotations.is_dir():
        lists = {split: source / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
        files = {split: list(_listed(path, annotations)) for split, path in lists.items() if path.is_file()}
        if "train" in files:
            files.pop("trainval", None)
        return files or {"": sorted(annotations.glob("*.xml"))}
    folders = {split: sorted((source / split).glob("*.xml")) for split in SPLITS if (source / split).is_dir()}
    folders = {split: paths for split, paths in folders.items() if paths}
    return folders or {"": sorted(source.glob("*.xml"))}


def _listed(path: Path, annotations: Path) -> Iterator[Path]:
    for line in read_text(path).split("\n"):
        if line.strip():
            file = annotations / f"{line.split()[0]}.xml"
            # a file's name alone: a list is no way out of the folder
            if file.parent != annotations or not os.path.isfile(file):
                name, missing = shown(line.split()[0], repr), shown(file.name)
                raise ValueError(f"{path} lists {name}, but there is no {missing} in {annotations}.")
            yield file


def _read(path: Path) -> tuple[AnnotatedPicture, list[tuple[float, float, float, float]]]:
    """The picture without boxes, and its boxes as they stand in the file."""
    if not path.is_file():
        raise ValueError(f"{path} is a folder, a pipe or a device, not a file.")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of an encoding that is not known
        raise ValueError(f"{path} is not valid XML: {error}.") from error
    names, boxes = [], []
    for number, entry in enumerate(root.iter("object"), 1):
        name, box = entry.findtext("name"), entry.find("bndbox")
        try:
            corners = tuple(float(box.findtext(corner)) for corner in CORNERS)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: object {number} needs a bndbox with numbers for {', '.join(CORNERS)}."
            ) from error
        name = (name or "").strip()
        if not name:
            raise ValueError(f"{path}: object {number} has no name.")
        names.append(name)
        boxes.append(corners)
    image = _image_of(path, root.findtext("filename"))
    width, height = (_side(root, side, path) for side in ("width", "height"))
    if not width or not height:
        width, height = picture_size(str(image))
    return AnnotatedPicture(str(image), None, width, height, [], names), boxes


def _side(root: ElementTree.Element, name: str, path: Path) -> int:
    text = root.findtext(f"size/{name}") or 0
    try:
        return side_of(float(text), name, str(path))
    except ValueError:
        return side_of(text, name, str(path))  # which says what stands there


def _image_of(path: Path, file_name: str | None) -> Path:
    folders = [path.parent, path.parent.parent / "JPEGImages", path.parent.parent / "images"]
    folders = [folder for folder in folders if folder.is_dir()]
    stems = [file_name.replace("\\", "/").rsplit("/", 1)[-1]] if file_name else []
    stems += [path.stem + suffix for suffix in (".jpg", ".jpeg", ".png", ".JPG", *sorted(PICTURE_SUFFIXES))]
    found = next((folder / stem for folder in folders for stem in stems if os.path.isfile(folder / stem)), None)
    if found is None:
        raise ValueError(f"{path} belongs to {shown(stems[0])}, which is in none of {', '.join(map(str, folders))}.")
    return found
