"""Tables with an object a row, such as Kaggle's CSV files: file name, class, and a column for each side of the box."""

import csv
import io
import os
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from ..annotations import shown
from .box_formats import four_columns
from .column_sets import OBJECT_ALIASES, PICTURE_ALIASES
from .source_files import SetFiles, folded, is_picture, read_text, split_in, stem

NAME_COLUMNS = ("filename", *PICTURE_ALIASES["image"], "image_id")


def read_tables(files: SetFiles, names: Iterable[str]) -> dict[str, Dataset]:
    """Sets with a row for each picture, by the split in the name of their table or its folder, `""` for one without."""
    found: dict[str, Dataset] = {}
    for name in names:
        try:
            pictures = _pictures(name, files)
        except csv.Error as error:
            raise ValueError(f"{files.path(name)} is not a valid table: {error}.") from error
        split = split_in(stem(name)) or split_in(os.path.dirname(name))
        if not pictures:
            files.passed_over.append(f"{name} is a table without rows of a file name and xmin, ymin, xmax, ymax")
        elif split in found:
            raise ValueError(f"{files.path(name)} is another table of the split {split!r}: give one of them as --data.")
        else:
            found[split] = Dataset.from_list(pictures)
    if len(found) > 1:  # a table of all pictures beside those of the splits
        found.pop("", None)
    return found


def _pictures(name: str, files: SetFiles) -> list[dict[str, Any]]:
    """The rows of each picture together: its file, and a list for each column that says something of its objects."""
    text = read_text(files.path(name))
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
    image = next((columns[alias] for alias in NAME_COLUMNS if alias in columns), None)
    sides, _ = four_columns(columns.values())
    if image is None or not sides:
        return []
    known = [PICTURE_ALIASES, {key: OBJECT_ALIASES[key] for key in ("area", "iscrowd", "id")}]
    left_out = {columns.get(alias) for aliases in known for names in aliases.values() for alias in names}
    texts = [column for column in columns.values() if column not in {image, *sides, *left_out}]
    pictures: dict[str, dict[str, Any]] = {}
    for row in reader:
        where, file_name = f"{files.path(name)}, line {reader.line_num}", row[image] or ""
        if file_name not in pictures:
            without_suffix = filter(is_picture, files.by_stem.get(folded(file_name), ()))
            file = files.find(file_name, [os.path.dirname(name), "images", ""]) or next(without_suffix, None)
            if file is None:
                problem = f"names {shown(file_name, repr)}, which is not in {files.root}"
                raise ValueError(f"{where} {problem}{files.hint(file_name)}.")
            pictures[file_name] = {"image": files.path(file)} | {column: [] for column in (*sides, *texts)}
        if any(row[side] for side in sides):  # an empty box is that of a picture without objects
            try:
                values = {side: float(row[side]) for side in sides} | {column: row[column] for column in texts}
            except (TypeError, ValueError):
                wrong = shown([row[side] for side in sides])
                raise ValueError(f"{where} has {wrong} for {', '.join(sides)}: give four numbers.") from None
            for column, value in values.items():
                pictures[file_name][column].append(value)
    return list(pictures.values())
