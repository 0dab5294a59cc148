"""docs/see.md: its numbers and kinds of figures are the package's."""

import re
from pathlib import Path

from transformers_samdetr.demo.limits import Limits
from transformers_samdetr.prediction import KINDS, NMS_THRESHOLD
from transformers_samdetr.prediction.report import MOST_PICTURES
from transformers_samdetr.prediction.threshold import DEFAULT_THRESHOLD

TEXT = (Path(__file__).parents[1] / "docs" / "see.md").read_text(encoding="utf-8")


def test_numbers_and_names():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE) == list(KINDS)
    assert f"IoU {NMS_THRESHOLD:g}" in TEXT and f"gets {DEFAULT_THRESHOLD:g}:" in TEXT
    assert f"first {MOST_PICTURES} pictures" in TEXT
    limits = Limits()
    assert f"{limits.pictures} pictures of {limits.megabytes} MB and {limits.megapixels:g} megapixels" in TEXT
    assert f"{limits.seconds:g} seconds" in TEXT
