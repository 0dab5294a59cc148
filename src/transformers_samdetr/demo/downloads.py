"""Files that visitors download: each there for a while, and none left when the demo ends."""

import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

KEPT_SECONDS = 3600
"""After an hour what was uploaded, drawn or written is deleted from the disk."""


class Downloads:
    """A folder of files that are all called `predictions.json`; it goes when the process ends."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="samdetr-demo-")

    def write(self, found: list[dict]) -> str:
        """Writes the list and returns the path, the same for the same list; Gradio takes a copy of the file."""
        self._delete_old()
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        path = Path(self._folder.name, hashlib.sha256(text.encode()).hexdigest()[:16], "predictions.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    def _delete_old(self) -> None:
        for folder in Path(self._folder.name).iterdir():
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
