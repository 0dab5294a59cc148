"""docs/see.md: its snippet runs, what it names exists."""

import re
from pathlib import Path

import torch
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.prediction import KINDS, NMS_THRESHOLD
from transformers_samdetr.prediction.report import MOST_PICTURES
from transformers_samdetr.prediction.threshold import DEFAULT_THRESHOLD

from .models import SMALL_BACKBONE, TINY

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "see.md").read_text(encoding="utf-8")


def test_snippet_runs(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = SamDetrForObjectDetection(SamDetrConfig(**TINY | {"backbone_config": SMALL_BACKBONE}))
    with torch.no_grad():
        model.class_heads[-1].bias.fill_(1.0)  # so that there is something to explain
    model.save_pretrained(tmp_path / "outputs" / "digits")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(tmp_path / "outputs" / "digits")
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    exec(compile(snippet, "see.md", "exec"), {"__name__": "__main__"})
    assert Image.open("why.png").width > 1000


def test_numbers_and_names():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE) == list(KINDS)
    assert f"IoU {NMS_THRESHOLD:g}" in TEXT and f"gets {DEFAULT_THRESHOLD:g}:" in TEXT
    assert f"first {MOST_PICTURES} pictures" in TEXT
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).is_file(), target
