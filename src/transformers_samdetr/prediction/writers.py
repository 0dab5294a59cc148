"""What is written for detections: drawn pictures, crops, and lists in several formats, all in one folder."""

import csv
import io
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

PREDICTIONS_FILE, TABLE_FILE, FRAMES_FILE = "predictions.json", "predictions.csv", "predictions.jsonl"
LABELS_FOLDER, CROPS_FOLDER = "labels", "crops"
FORMATS = ("coco", "csv", "yolo", "jsonl")
"""`predictions.json`, COCO's results; `predictions.csv`; `labels/*.txt`; `predictions.jsonl`, a line for each frame."""
COLUMNS = ("image_id", "file_name", "category_id", "category_name", "x", "y", "width", "height", "score", "track_id")
WRITABLE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .tif .tiff .webp".split())


class OutputFolder:
    """Writes pictures in one folder, each under a name of its own, and never outside of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.taken = {PREDICTIONS_FILE, TABLE_FILE, FRAMES_FILE}
        self._lines: TextIO | None = None

    def write_picture(self, image: Image.Image, name: str, replace: bool = False) -> str:
        """Writes the picture as `name`, a POSIX path, or as `name-2` where that is taken; returns the path below.

        The suffix stays where Pillow writes such files without loss of colour; otherwise `.png` is added. `replace`
        says whether a picture that was written before is replaced.
        """
        if not replace or name.casefold() not in self.taken:
            wanted = PurePosixPath(name if PurePosixPath(name).suffix.lower() in WRITABLE_SUFFIXES else f"{name}.png")
            candidates = (str(wanted.with_stem(f"{wanted.stem}-{number}")) for number in itertools.count(2))
            candidates = itertools.chain([str(wanted)], candidates)
            name = next(name for name in candidates if name.casefold() not in self.taken)
            self.taken.add(name.casefold())  # some file systems do not tell upper from lower case
        path = self._path(name)
        partial = path.with_name(f".partial{path.suffix}")  # short: the file's own name may be as long as names can be
        image.save(partial, quality=92)
        os.replace(partial, path)  # a link that stands there is replaced, not followed
        return name

    def write_text(self, name: str, text: str) -> None:
        path = self._path(name)
        partial = path.with_name(f".{path.name}.partial")
        # the bytes of a file name that is not UTF-8 are written as JSON's escapes, and read back as they were
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(partial, path)

    def append_line(self, text: str) -> None:
        """A line at the end of `predictions.jsonl`, whose first one replaces the file of an earlier run."""
        if self._lines is None:
            path = self._path(FRAMES_FILE)
            path.unlink(missing_ok=True)  # a link that stands there is not followed
            self._lines = path.open("x", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._lines.write(text + "\n")

    def write_csv(self, rows: list[dict]) -> None:
        """The rows of `Detector.coco_rows` as `predictions.csv`, boxes in pixels."""
        buffer, sides = io.StringIO(), ("x", "y", "width", "height")
        table = csv.DictWriter(buffer, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(row | dict(zip(sides, row["bbox"], strict=True)) for row in rows)
        self.write_text(TABLE_FILE, buffer.getvalue())

    def write_yolo(self, file_name: str, image: Image.Image, detections: dict[str, Tensor]) -> None:
        """`labels/….txt`: a line for each detection with label, center x, center y, width, height, score, track id.

        Boxes are normalised and clipped to the picture; the track id is there only after tracking. Arguments are the
        drawn picture's path below the folder, and what `Detector.draw` takes.
        """
        scale = detections["boxes"].new_tensor([*image.size] * 2)
        boxes = box_convert((detections["boxes"] / scale).clamp(0, 1), "xyxy", "cxcywh")
        columns = [detections["labels"], *boxes.unbind(-1), detections["scores"]]
        columns += [detections["track_ids"]] if "track_ids" in detections else []
        lines = zip(*(column.tolist() for column in columns), strict=True)
        text = "".join(" ".join(f"{value:.6g}" for value in line) + "\n" for line in lines)
        self.write_text(str(PurePosixPath(LABELS_FOLDER, file_name).with_suffix(".txt")), text)

    def write_crops(self, file_name: str, image: Image.Image, detections: dict, names: Sequence[str]) -> None:
        """The part of the picture in each box, as `crops/CLASS/PICTURE-NUMBER.jpg`; arguments as of `write_yolo`."""
        stem = PurePosixPath(file_name).with_suffix("")
        stem = stem.with_name(stem.name[:200])  # so that the crop's own name is not too long
        columns = detections["labels"].tolist(), detections["boxes"].tolist()
        for number, (label, (x1, y1, x2, y2)) in enumerate(zip(*columns, strict=True), start=1):
            left, top = (min(max(0, int(start)), size - 1) for start, size in zip((x1, y1), image.size, strict=True))
            right, bottom = min(image.width, max(round(x2), left + 1)), min(image.height, max(round(y2), top + 1))
            folder = re.sub(r"[^\w -]", "_", names[label]).strip()[:60] or str(label)
            crop = image.crop((left, top, right, bottom))
            self.write_picture(crop, f"{CROPS_FOLDER}/{folder}/{stem}-{number}.jpg")

    def _path(self, file_name: str) -> Path:
        """The path of a file; its folder is made if need be."""
        folder = self.folder.resolve()
        path = folder / file_name
        if not path.parent.resolve().is_relative_to(folder):
            raise ValueError(f"{file_name} would be written outside of output_dir={self.folder}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
