"""Files of a data set: texts as tools and operating systems write them, and pictures by the names that texts give them.

All texts of annotation formats are read here, so byte order marks, line ends and YAML's words for true and false are
treated alike in every format. All files are found here, so that holds for case, Unicode form (NFC, NFD), folders of
another machine, and files that macOS and Windows leave behind.
"""

import codecs
import difflib
import json
import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from json.decoder import WHITESPACE
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import yaml

from ..annotations import shown
from ..pictures import PICTURE_SUFFIXES, UnreadablePictureError, exif_orientation, opened_picture

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
PIECE = 2**22
"""Bytes of a JSON file that are read at a time."""
LEFT_BEHIND = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""Files and folders that operating systems add; names that begin with a dot are left out too."""
DEEPEST = 10
"""Levels of folders below that of the set which are searched."""
SPLIT = re.compile(r"(?:^|[^a-z])(training|train|validation|valid|val|dev|testing|test)(?:[^a-z]|$)", re.IGNORECASE)
SPLIT_FOLDERS = ("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing")
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
MOST_COMPARED = 20_000
"""Names among which a similar one is looked for."""


def text_encoding(start: bytes) -> str:
    """The encoding that a file's byte order mark declares, UTF-8 without one."""
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")


def read_text(path: str | os.PathLike) -> str:
    """The file's text, without a byte order mark and with line ends `\\n`.

    Raises:
        ValueError: it is neither UTF-8 nor UTF-16 with a byte order mark, naming the file.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode(text_encoding(content[:4]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_yaml(path: Path) -> Any:
    """The file's mappings and lists; every scalar is the text that stands there, so `no`, `1.0` and `007` stay so.

    YAML 1.1, which PyYAML reads otherwise, makes booleans, numbers in base 8 and dates of class names.

    Raises:
        ValueError: the file is no YAML.
    """
    try:
        return yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # TypeError: a mapping as a key
        raise ValueError(f"{path} is not valid YAML: {shown(error)}.") from error


def read_xml(path: str | os.PathLike) -> ElementTree.Element:
    """The outermost element of an XML file.

    Raises:
        ValueError: the file is no XML, or in an encoding that is not known; the message names it.
    """
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()
    declared = re.match(rb"""<\?xml[^>]*encoding=["']([\w.-]+)["'][^>]*\?>""", content)
    try:
        if declared and not declared[1].lower().startswith(b"utf"):  # expat knows few others, such as GB2312
            content = content[declared.end() :].decode(declared[1].decode())
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{path} is not valid XML: {error}.") from error


def read_json_rows(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The members of a JSON object, arrays element by element: a large file takes little memory.

    Yields:
        `(key, -1, value)` of each member, an empty list for an array, then `(key, index, element)` of each element.
        A file of something else than an object yields `("", -1, value)`.

    Raises:
        ValueError: the file is no JSON text; the message names it.
    """
    decode, text, place, before = json.JSONDecoder().raw_decode, "", 0, 0
    with path.open("rb") as file:
        decoder = codecs.getincrementaldecoder(text_encoding(file.read(4)))()
        file.seek(0)

        def more() -> bool:
            """Reads on, and forgets what has been used; False at the end."""
            nonlocal text, place, before
            piece = file.read(max(PIECE, len(text) - place))
            try:
                text, before, place = text[place:] + decoder.decode(piece, final=not piece), before + place, 0
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
            return bool(piece)

        def refuse(problem: str, at: int) -> NoReturn:
            raise ValueError(f"{path} is not valid JSON: {problem}, at character {before + at}. Export it again.")

        def peek() -> str:
            nonlocal place
            while True:
                place = WHITESPACE.match(text, place).end()
                if place < len(text) or not more():
                    return text[place : place + 1]

        def take(characters: str) -> str:
            nonlocal place
            found = peek()
            if not found or found not in characters:
                refuse(f"Expecting one of {' '.join(characters)}", place)
            place += 1
            return found

        def value() -> Any:
            nonlocal place
            peek()
            while True:
                try:
                    found, end = decode(text, place)
                    if end < len(text) or not more():  # a number at the end may go on
                        place = end if end < len(text) else len(text)
                        return found
                except json.JSONDecodeError as error:
                    problem, at = error.msg, error.pos - place
                    if not more():
                        refuse(problem, place + at)
                except (ValueError, RecursionError) as error:  # the former for a number of thousands of digits
                    raise ValueError(f"{path} is not valid JSON: {error}. Export it again.") from error

        def members(end: str) -> Iterator[None]:
            """Runs before each member of what has begun, up to its end."""
            if peek() == end:
                take(end)
                return
            yield
            while take("," + end) == ",":
                yield

        if peek() != "{":
            yield "", -1, value()
        else:
            take("{")
            for _ in members("}"):
                key = value()
                if not isinstance(key, str):
                    refuse("Expecting a key in quotes", place)
                take(":")
                if peek() == "[":
                    take("[")
                    yield key, -1, []
                    for index, _ in enumerate(members("]")):
                        yield key, index, value()
                else:
                    yield key, -1, value()
        if peek():
            refuse("Extra data", place)


def picture_size(content: str | bytes) -> tuple[int, int]:
    """Width and height of a displayed picture, its EXIF orientation applied, from the file's header alone.

    Args:
        content: path or bytes of a file.

    Returns:
        (0, 0) where the file is no picture, is missing, or is larger than Pillow opens.
    """
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
    if not match:
        return ""
    with_year = re.search(match[1] + r"\d*", name)
    return with_year[0] if with_year else match[1]


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is one that an operating system or a tool left, such as `._p.jpg` and `__MACOSX`."""
    return name.startswith(".") or name in LEFT_BEHIND


def folded(name: str) -> str:
    """A name in the form in which names are compared: without case, and with accents composed.

    >>> folded("Cafe\\u0301.JPG") == folded("café.jpg")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_picture(name: str) -> bool:
    """Whether a file's suffix is that of a picture, in any case."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def require_utf8(paths: Iterable[str | None]) -> None:
    """Refuses names of files that Arrow cannot hold.

    Raises:
        ValueError: one is not UTF-8.
    """
    for path in paths:
        try:
            (path or "").encode()
        except UnicodeEncodeError:
            raise ValueError(f"The name of {ascii(path)} is not UTF-8: rename the file.") from None


class SetFiles:
    """All files of a set's folder, listed once; paths are relative to it, with `/`.

    Links to folders and files are followed: whoever made one has chosen where it leads. Devices, pipes and what
    `is_left_behind` are no files of the set.

    Args:
        root: folder of the set.
        deepest: levels of folders below it that are listed.
    """

    def __init__(self, root: Path, deepest: int = DEEPEST):
        self.root = root
        self._deepest = deepest
        self.files: dict[str, None] = {}
        self.folders: set[str] = {""}
        self._list("", {os.path.realpath(root)}, 0)
        self._by_name: dict[str, list[str]] | None = None
        self._by_path: dict[str, str] | None = None

    def _list(self, folder: str, above: set[str], depth: int) -> None:
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if is_left_behind(entry.name):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _is(entry.is_file):
                self.files[path] = None
            elif depth < self._deepest and _is(entry.is_dir):
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if real not in above:  # a link to a folder that it lies in
                    self.folders.add(path)
                    self._list(path, above | {real}, depth + 1)

    def path(self, relative: str) -> str:
        """The path to open."""
        return os.path.join(self.root, *relative.split("/"))

    def with_suffix(self, *suffixes: str, within: str = "") -> list[str]:
        """Files with one of the suffixes (lower case, with the dot), in a folder or below it, in order."""
        start = f"{within}/" if within else ""
        return [path for path in self.files if path.startswith(start) and path.lower().endswith(suffixes)]

    def pictures(self, within: str = "") -> list[str]:
        """Pictures of a folder and those below it, in the order of their paths."""
        start = f"{within}/" if within else ""
        return sorted((p for p in self.files if p.startswith(start) and is_picture(p)), key=lambda p: p.split("/"))

    def folder(self, name: str) -> str | None:
        """The folder of this path below the set's, compared by `folded`; None if there is none."""
        wanted = "/".join(clean_parts(name))
        if wanted in self.folders:
            return wanted
        return next((path for path in sorted(self.folders) if folded(path) == folded(wanted)), None)

    def match(self, path: str) -> str | None:
        """The file of this path below the set's folder, compared by `folded`; None if there is none."""
        if path in self.files:
            return path
        if self._by_path is None:
            self._by_path = {folded(own): own for own in self.files}
        return self._by_path.get(folded(path))

    def find(self, name: str, folders: Iterable[str] = ("",)) -> str | None:
        """The file that a text calls `name`.

        A name that leads out of the set, such as `../../other/x.jpg` or `/other/x.jpg`, finds the file of that name
        in the set, if there is one: a text from elsewhere cannot have files read that are not the set's.

        Args:
            name: with or without folders, which may be those of another machine.
            folders: of the set, in which it is looked for first, in this order.

        Returns:
            The file with exactly this name in one of `folders`; else the one file anywhere in the set whose name,
            compared by `folded`, is this one, and whose folders agree best. None where there is none, or several.
        """
        folders = tuple(folders)
        parts = clean_parts(name)
        if not parts:
            return None
        for tail in ("/".join(parts), parts[-1]):
            for folder in folders:
                path = f"{folder}/{tail}" if folder else tail
                if path in self.files:
                    return path
        found = self._best(parts, folders)
        if found is None and ("%" in name or "?" in name):  # names in URLs, as Label Studio writes them
            decoded = unquote(name)
            return self._best(clean_parts(decoded.partition("?d=")[2] or decoded.partition("?")[0]), folders)
        return found

    def _best(self, parts: Sequence[str], folders: Sequence[str]) -> str | None:
        """The one file of the folded name with most of the folders in common; of `folders` if that decides."""
        if not parts:
            return None
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for path in self.files:
                self._by_name[folded(path.rpartition("/")[2])].append(path)
        wanted = [folded(part) for part in parts]
        best: list[str] = []
        most = 0
        for path in self._by_name.get(wanted[-1], ()):
            common = 0
            for own, other in zip(reversed(path.split("/")), reversed(wanted), strict=False):
                if folded(own) != other:
                    break
                common += 1
            if common > most:
                best, most = [path], common
            elif common == most:
                best.append(path)
        for folder in folders:
            if len(best) > 1 and folder:
                best = [path for path in best if path.startswith(f"{folder}/")] or best
        return best[0] if len(best) == 1 else None

    def similar(self, name: str) -> str | None:
        """The file of the most similar name, to offer where `find` has found none: of another suffix or prefix."""
        wanted = folded(name.replace("\\", "/").rpartition("/")[2])
        stem = os.path.splitext(wanted)[0]
        names = {folded(path.rpartition("/")[2]): path for path in self.files if is_picture(path)}
        same_stem = [path for own, path in names.items() if os.path.splitext(own)[0] == stem]
        longer = [path for own, path in names.items() if own.endswith(wanted) or wanted.endswith(own)]
        if same_stem or longer:
            return (same_stem or longer)[0]
        close = difflib.get_close_matches(wanted, list(names)[:MOST_COMPARED], n=1, cutoff=0.8)
        return names[close[0]] if close else None


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself
        return False


def clean_parts(name: str) -> list[str]:
    """A name's parts, without `.`, `..`, the drive and the root.

    >>> clean_parts("C:\\\\sets\\\\..\\\\a b.jpg"), clean_parts("../train/./x.jpg")
    (['sets', 'a b.jpg'], ['train', 'x.jpg'])
    """
    parts = name.replace("\\", "/").split("/")
    return [part for i, part in enumerate(parts) if part not in ("", ".", "..") and not (i == 0 and part[1:] == ":")]
