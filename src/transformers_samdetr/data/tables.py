"""Tables with an object a row, such as Kaggle's CSV files: file name, class, and the box in four columns or one."""

import csv
import io
import os
import re
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from ..annotations import shown
from .box_formats import four_columns
from .column_sets import OBJECT_ALIASES, PICTURE_ALIASES
from .source_files import SetFiles, folded, is_picture, read_text, split_in, stem

NAME_COLUMNS = ("filename", *PICTURE_ALIASES["image"], "image_name", "img_name", "image_id", "imageid")
CLASS_NAMES = ("class_name", "label_name", "labelname", "category_name")  # read before a column of numbers
WITHOUT_HEADER = (  # columns of keras-retinanet's and Make Sense's tables, which do not name them
    "filename,xmin,ymin,xmax,ymax,class",
    "class,bbox_x,bbox_y,bbox_width,bbox_height,filename,width,height",
)


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
            files.passed_over.append(
                f"{name} is a table without a header and rows of filename, xmin, ymin, xmax, ymax, class"
            )
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
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    cells, known_tables = first.split(delimiter), [header.split(",") for header in WITHOUT_HEADER]
    fits = (t for t in known_tables if len(t) == len(cells) and is_picture(cells[t.index("filename")].strip()))
    reader = csv.DictReader(io.StringIO(text), next(fits, None), delimiter=delimiter)
    columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
    image = next((columns[alias] for alias in NAME_COLUMNS if alias in columns), None)
    sides = (
        four_columns(columns.values())[0] or [columns[name] for name in OBJECT_ALIASES["bbox"] if name in columns][:1]
    )
    if image is None or not sides:
        return []
    known = [PICTURE_ALIASES, {key: OBJECT_ALIASES[key] for key in ("area", "iscrowd", "id")}]
    left_out = {columns.get(alias) for aliases in known for names in aliases.values() for alias in names}
    texts = [column for column in columns.values() if column not in {image, *sides, *left_out}]
    named = next((columns[name] for name in CLASS_NAMES if name in columns), None)
    has_one_class = not any(column.strip().lower() != "source" for column in texts)
    category = ["category"] if named or has_one_class else []
    pictures: dict[str, dict[str, Any]] = {}
    for row in reader:
        where, file_name = f"{files.path(name)}, line {reader.line_num}", row[image] or ""
        if file_name not in pictures:
            without_suffix = filter(is_picture, files.by_stem.get(folded(file_name), ()))
            file = files.find(file_name, [os.path.dirname(name), "images", ""]) or next(without_suffix, None)
            if file is None:
                problem = f"names {shown(file_name, repr)}, which is not in {files.root}"
                raise ValueError(f"{where} {problem}{files.hint(file_name)}.")
            pictures[file_name] = {"image": files.path(file)} | {column: [] for column in (*sides, *texts, *category)}
        if any(row[side] for side in sides):  # an empty box is that of a picture without objects
            written = [row[side] or "" for side in sides]
            try:  # one column has "[x, y, w, h]"
                written_numbers = written if len(sides) == 4 else re.findall(r"[^\s,;\[\]()]+", written[0])
                x, y, w, h = (float(number.replace(",", ".")) for number in written_numbers)
            except ValueError:
                raise ValueError(f"{where} has {shown(written)} for {', '.join(sides)}: give four numbers.") from None
            box = dict(zip(sides, (x, y, w, h), strict=True)) if len(sides) == 4 else {sides[0]: [x, y, w, h]}
            classes = dict.fromkeys(category, row[named] if named else "object")
            for column, value in ({column: row[column] for column in texts} | classes | box).items():
                pictures[file_name][column].append(value)
    return list(pictures.values())
