"""The folder that drawn pictures and their list go to."""

import itertools
import json
import os
from pathlib import Path, PurePosixPath

from PIL import Image

PREDICTIONS_FILE = "predictions.json"
WRITABLE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .tif .tiff .webp".split())


class OutputFolder:
    """Writes pictures in one folder, each under a name of its own, and never outside of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.taken = {PREDICTIONS_FILE}

    def write_picture(self, image: Image.Image, name: str) -> str:
        """Writes the picture and returns its path below the folder: `name`, or `name-2` where that is taken.

        The suffix stays where Pillow writes such files without loss of colour; otherwise `.png` is added.
        """
        file_name = self._free_name(PurePosixPath(name))
        path = self._path(file_name)
        partial = path.with_name(f".partial{path.suffix}")  # short: the file's own name may be as long as names can be
        image.save(partial, quality=92)
        os.replace(partial, path)  # a link that stands there is replaced, not followed
        return file_name

    def write_text(self, name: str, text: str) -> None:
        path = self._path(name)
        partial = path.with_name(f".{path.name}.partial")
        # the bytes of a file name that is not UTF-8 are written as JSON's escapes, and read back as they were
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(partial, path)

    def write_json(self, detections: list[dict]) -> None:
        self.write_text(PREDICTIONS_FILE, json.dumps(detections, indent=1, ensure_ascii=False) + "\n")

    def _free_name(self, name: PurePosixPath) -> str:
        name = name if name.suffix.lower() in WRITABLE_SUFFIXES else name.with_name(name.name + ".png")
        candidates = (name.with_stem(f"{name.stem}-{number}") for number in itertools.count(2))
        for candidate in itertools.chain([name], candidates):
            key = str(candidate).casefold()  # some file systems do not tell upper from lower case
            if key not in self.taken:
                self.taken.add(key)
                return str(candidate)

    def _path(self, file_name: str) -> Path:
        """The path of a file; its folder is made if need be."""
        folder = self.folder.resolve()
        path = folder / file_name
        if not path.parent.resolve().is_relative_to(folder):
            raise ValueError(f"{file_name} would be written outside of output_dir={self.folder}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
