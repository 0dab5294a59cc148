"""One COCO JSON: read, and its structure checked, so that what reads on meets lists, dicts, names and numbers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..annotations import shown
from .text_files import read_text

KEYS = ("images", "annotations", "categories")


def read_coco_json(path: Path) -> dict[str, Any]:
    """The file's content, with the keys that detection needs.

    Of `images` each has a text `file_name` and an `id` of its own, of `categories` each an `id` and a text `name`; ids
    are integers or texts. `annotations` are dicts, of which nothing is checked yet.

    Raises:
        ValueError: the file is no JSON, or not of this structure; the message names the file and the place.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON: {error}. Export it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {shown(content, repr)}, expected an object with {', '.join(KEYS)}.")
    for key in KEYS:
        if key not in content:
            raise ValueError(f"{path} has no {key!r}; it holds {shown(sorted(content))}.")
        _check_rows(content[key], f"{path}: {key}")
    for key, name in (("images", "file_name"), ("categories", "name")):
        for index, row in enumerate(content[key]):
            _check_named(row, name, f"{path}: {key}[{index}]")
    _check_ids_differ(content["images"], path)
    return content


def _check_rows(rows: Any, where: str) -> None:
    if not isinstance(rows, list):
        raise ValueError(f"{where} is {shown(rows, repr)}: give a list.")
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(f"{where}[{wrong}] is {shown(rows[wrong], repr)}: give an object in braces.")


def _check_named(row: Mapping[str, Any], name: str, where: str) -> None:
    if not is_id(row.get("id")):
        raise ValueError(f"{where} has the id {shown(row.get('id'), repr)}: give an integer or a text.")
    text = row.get(name)
    if not isinstance(text, str) or not text.isprintable():
        raise ValueError(f"{where} has the {name} {shown(text, repr)}: give a text of one line.")


def _check_ids_differ(images: Sequence[Mapping[str, Any]], path: Path) -> None:
    identity, count = Counter(image["id"] for image in images).most_common(1)[0] if images else (None, 0)
    if count > 1:
        raise ValueError(f"{path} has several images with the id {shown(identity)}.")


def is_id(value: Any) -> bool:
    """Whether it can be the id of an image or a category: an integer that a set can hold, or a text."""
    if isinstance(value, str):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
