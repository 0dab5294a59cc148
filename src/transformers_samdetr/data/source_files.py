"""Files of a data set: its texts, as tools and operating systems write them, and its pictures, by the names in texts.

Byte order marks, line ends, case, Unicode form (NFC, NFD) and folders of another machine are treated alike everywhere.
"""

import codecs
import difflib
import json
import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from json.decoder import WHITESPACE
from pathlib import Path
from typing import Any, NoReturn, TextIO
from urllib.parse import unquote

import yaml

from ..annotations import shown
from ..pictures import PICTURE_SUFFIXES, UnreadablePictureError, exif_orientation, opened_picture

PIECE = 2**22  # characters of a JSON file that are read at a time
DEEPEST = 10  # levels of folders below that of the set which are searched
SPLIT = re.compile(r"(?:^|[^a-z])(training|train|validation|valid|val|dev|testing|test)(?:[^a-z]|$)", re.IGNORECASE)
SPLIT_NAMES = ("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing")
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@contextmanager
def opened_text(path: str | os.PathLike, errors: str = "strict") -> Iterator[TextIO]:
    """A text file in UTF-8 or UTF-16, without its byte order mark and with line ends `\\n`."""
    with open(path, "rb") as file:
        is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        with open(path, encoding="utf-16" if is_wide else "utf-8-sig", errors=errors) as file:
            yield file
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def read_text(path: str | os.PathLike) -> str:
    """The whole text of `opened_text`."""
    with opened_text(path) as file:
        return file.read()


def read_yaml(path: Path) -> Any:
    """Mappings and lists in which every scalar is a text, so that `no`, `1.0` and `007` stay what they are."""
    text = read_text(path)
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # TypeError: a mapping as a key
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or shown(error)
        raise ValueError(f"{path} is not valid YAML: {problem}{place}. Correct it there.") from error


def read_xml(path: str | os.PathLike) -> ElementTree.Element:
    """The outermost element of an XML file in any encoding that Python knows."""
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()
    declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["'][^>]*\?>""", content)
    try:
        if declared and not declared[1].lower().startswith(b"utf"):  # expat knows few others, such as GB2312
            content = content[declared.end() :].decode(declared[1].decode())
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not valid XML: {error}. Correct it there, or export it again.") from error


def read_json_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The members of a JSON object, arrays element by element, so that a large file takes little memory.

    Yields `(key, -1, value)` of each member, with an empty list for an array, then `(key, index, element)` of each
    element; `("", -1, value)` where the file holds no object.
    """
    decode, text, place, before = json.JSONDecoder().raw_decode, "", 0, 0
    with opened_text(path) as file:

        def more() -> bool:
            """Reads on, and forgets what has been used; False at the end."""
            nonlocal text, place, before
            piece = file.read(max(PIECE, len(text) - place))
            text, before, place = text[place:] + piece, before + place, 0
            return bool(piece)

        def refuse(problem: object) -> NoReturn:
            raise ValueError(f"{path} is not valid JSON: {problem}, at character {before + place}. Export it again.")

        def next_character(expected: str = "") -> str:
            """The first that is not white space, "" at the end; goes past it if it is expected, and refuses others."""
            nonlocal place
            while (place := WHITESPACE.match(text, place).end()) == len(text) and more():
                pass
            found = text[place : place + 1]
            if expected and (not found or found not in expected):
                refuse(f"Expecting one of {' '.join(expected)}")
            place += bool(expected)
            return found

        def value() -> Any:
            nonlocal place
            next_character()
            while True:
                try:
                    found, end = decode(text, place)
                    if end < len(text) or not more():  # a number at the end may go on
                        place = min(end, len(text))
                        return found
                except json.JSONDecodeError as error:
                    at = error.pos - place
                    if not more():
                        place += at
                        refuse(error.msg)
                except (ValueError, RecursionError) as error:  # the former for a number of thousands of digits
                    refuse(error)

        def members(opening: str, closing: str) -> Iterator[None]:
            """Runs before each member of an object or array, up to its end."""
            next_character(opening)
            if next_character() == closing:
                next_character(closing)
                return
            yield
            while next_character("," + closing) == ",":
                yield

        if next_character() != "{":
            yield "", -1, value()
        else:
            for _ in members("{", "}"):
                key = value()
                if not isinstance(key, str):
                    refuse("Expecting a key in quotes")
                next_character(":")
                if next_character() == "[":
                    yield key, -1, []
                    for index, _ in enumerate(members("[", "]")):
                        yield key, index, value()
                else:
                    yield key, -1, value()
        if next_character():
            refuse("Extra data")


def picture_size(content: str | bytes) -> tuple[int, int]:
    """Width and height of a picture as displayed, from its file or bytes; (0, 0) where Pillow opens none."""
    try:
        with opened_picture(content, "") as image:
            return image.size[::-1] if exif_orientation(image) in SIDEWAYS else image.size
    except (UnreadablePictureError, OSError):
        return 0, 0


def split_in(name: str) -> str:
    """The split that a file's or folder's name tells, or `""`.

    >>> split_in("instances_val2017"), split_in("valid"), split_in("labels_my-project")
    ('val2017', 'valid', '')
    """
    match = SPLIT.search(re.sub(r"\d+", "", name))
    with_year = match and re.search(match[1] + r"\d*", name)
    return with_year[0] if with_year else match[1] if match else ""


def folded(name: str) -> str:
    """The form in which names are compared: without case, and with accents composed.

    >>> folded("Cafe\\u0301.JPG") == folded("café.jpg")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def require_utf8(paths: Iterable[str | None]) -> None:
    """Refuses names of files that Arrow cannot hold, with a ValueError."""
    for path in paths:
        try:
            (path or "").encode()
        except UnicodeEncodeError:
            raise ValueError(f"The name of {ascii(path)} is not UTF-8: rename the file.") from None


class SetFiles:
    """All files of a set's folder, listed once; paths are relative to it, with `/`.

    Links to folders and files are followed: whoever made one has chosen where it leads. Devices, pipes and what
    systems leave behind (`._p.jpg`, `__MACOSX`) are no files of the set.
    """

    def __init__(self, root: Path, deepest: int = DEEPEST):
        self.root = root
        self.passed_over: list[str] = []  # a line for each file that could have been annotations, and why it is not
        self.files: dict[str, None] = {}
        self.folders: set[str] = {""}
        self._list("", {os.path.realpath(root)}, deepest)

    def add(self, folder: str) -> None:
        """Lists a folder elsewhere too, by its path relative to the set's folder, such as `../images`."""
        relative = os.path.relpath(folder, self.root).replace(os.sep, "/")
        if relative not in self.folders:
            self.folders.add(relative)
            self._list(relative, {os.path.realpath(self.root), os.path.realpath(folder)}, DEEPEST)
            for index in ("_by_path", "by_stem"):
                self.__dict__.pop(index, None)

    def _list(self, folder: str, above: set[str], levels: int) -> None:
        try:
            with os.scandir(self.path(folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.name.startswith(".") or entry.name in ("__MACOSX", "Thumbs.db", "desktop.ini"):
                continue
            if os.path.isfile(entry.path):
                self.files[path] = None
            elif levels and os.path.isdir(entry.path):
                real = os.path.realpath(entry.path)
                if real not in above:  # a link to a folder that it lies in
                    self.folders.add(path)
                    self._list(path, above | {real}, levels - 1)

    @cached_property
    def _by_path(self) -> dict[str, str]:
        return {folded(path): path for path in (*sorted(self.folders, reverse=True), *self.files)}

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Files by their folded names without suffix."""
        paths = defaultdict(list)
        for path in self.files:
            paths[folded(stem(path))].append(path)
        return paths

    def path(self, relative: str) -> str:
        """The path to open."""
        return os.path.join(self.root, *relative.split("/"))

    def with_suffix(self, *suffixes: str, within: str = "") -> list[str]:
        """Files with one of the suffixes (lower case, with the dot), in a folder or below it, in order."""
        start = f"{within}/" if within else ""
        return [path for path in self.files if path.startswith(start) and path.lower().endswith(suffixes)]

    def pictures(self, within: str = "") -> list[str]:
        """Pictures of a folder and those below it, in the order of their paths."""
        return sorted(self.with_suffix(*PICTURE_SUFFIXES, within=within), key=lambda path: path.split("/"))

    def match(self, path: str) -> str | None:
        """The file or folder of this path below the set's folder, compared by `folded`; None if there is none."""
        return path if path in self.files or path in self.folders else self._by_path.get(folded(path))

    def find(self, name: str, folders: Iterable[str] = ("",)) -> str | None:
        """The file that a text calls `name`, with or without folders, which may be those of another machine.

        That is the file with exactly this name in one of `folders`, in their order; else the one file anywhere in the
        set whose name, compared by `folded`, is this one, and whose folders agree best; None where there are several.
        It is always one of the set, also for `../../x.jpg` or `/other/x.jpg`: a text cannot have other files read.
        """
        parts, folders = clean_parts(name), tuple(folders)
        if not parts:
            return None
        for tail in ("/".join(parts), parts[-1]):
            for folder in folders:
                if (path := f"{folder}/{tail}".lstrip("/")) in self.files:
                    return path
        wanted = [folded(part) for part in reversed(parts)]
        common = {
            path: len(os.path.commonprefix([wanted, [folded(part) for part in reversed(path.split("/"))]]))
            for path in self.by_stem.get(stem(wanted[0]), ())
        }
        most = max(common.values(), default=0)
        best = [path for path in common if common[path] == most > 0]
        for folder in filter(None, folders):
            if len(best) > 1:
                best = [path for path in best if path.startswith(f"{folder}/")] or best
        if len(best) == 1:
            return best[0]
        decoded = unquote(name)  # as Label Studio writes names
        decoded = decoded.partition("?d=")[2] or decoded.partition("?")[0]
        return self.find(decoded, folders) if decoded != name else None

    def hint(self, name: str) -> str:
        """`; for x.jpg there is images/x.png` where `find` has found none but a similar name, else `""`."""
        wanted = folded(os.path.basename(name.replace("\\", "/")))
        names = {folded(os.path.basename(path)): path for path in self.files if is_picture(path)}
        near = [own for own in names if stem(own) == stem(wanted)]
        near = near or [own for own in names if own.endswith(wanted) or wanted.endswith(own)]
        near = near or difflib.get_close_matches(wanted, list(names)[:20_000], n=1, cutoff=0.8)
        return f"; for {shown(name)} there is {names[near[0]]}" if near else ""


def clean_parts(name: str) -> list[str]:
    """A name's parts, without `.`, `..`, the drive and the root.

    >>> clean_parts("C:\\\\sets\\\\..\\\\a b.jpg"), clean_parts("../train/./x.jpg")
    (['sets', 'a b.jpg'], ['train', 'x.jpg'])
    """
    parts = name.replace("\\", "/").split("/")
    return [part for i, part in enumerate(parts) if part not in ("", ".", "..") and not (i == 0 and part[1:] == ":")]
