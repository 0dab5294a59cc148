"""The Python of docs/data.md runs as it stands there."""

import re
from pathlib import Path

from .detection_folders import write_coco

DOCUMENT = Path(__file__).parents[1] / "docs" / "data.md"


def test_the_snippets_run(tmp_path, capsys):
    write_coco(tmp_path / "labels.json", tmp_path, count=10)
    snippets = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 2
    names: dict = {}
    for snippet in snippets:
        exec(snippet.replace('"FOLDER"', repr(str(tmp_path))), names)
    assert "8 training and 2 evaluation images" in capsys.readouterr().out
    assert len(names["train_set"][0][1]["annotations"]) <= 1
