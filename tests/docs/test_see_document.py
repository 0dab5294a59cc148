"""docs/see.md: its numbers and kinds of figures are the package's."""

import re
from pathlib import Path

from transformers_samdetr.commands import demo
from transformers_samdetr.prediction import KINDS, NMS_THRESHOLD
from transformers_samdetr.prediction.detector import DEFAULT_THRESHOLD
from transformers_samdetr.prediction.prediction_page import MAX_PICTURES

TEXT = (Path(__file__).parents[2] / "docs" / "see.md").read_text(encoding="utf-8")


def test_numbers_and_names():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE) == list(KINDS)
    assert f"IoU above {NMS_THRESHOLD:g}" in TEXT and f"gets {DEFAULT_THRESHOLD:g}:" in TEXT
    assert f"first {MAX_PICTURES} pictures" in TEXT
    defaults = demo.build_parser().parse_args(["--model", "user/name"])
    assert f"at most {defaults.max_megabytes} MB and {defaults.max_megapixels} megapixels" in TEXT
