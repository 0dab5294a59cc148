"""README: its snippets run, its numbers are the models', what it points at exists."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection, SamDetrImageProcessor
from transformers_samdetr.original_checkpoint import PUBLISHED_AP
from transformers_samdetr.presets import PRESETS

from .models import TINY

ROOT = Path(__file__).parents[1]
PAPER = ROOT.parent / "shared" / "paper.txt"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
ROWS = re.findall(r"^\| (SAM-DETR.*?) \| `(.*?)` \| ([\d,]+) \| (\S+) \| (\S+) \|$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with what the snippets expect: a picture, and a model in `outputs/digits`."""
    folder = tmp_path_factory.mktemp("readme")
    torch.manual_seed(0)
    model = SamDetrForObjectDetection(SamDetrConfig(**TINY))
    with torch.no_grad():
        model.class_heads[-1].bias.fill_(1.0)  # so that the loops over detections have something to do
    model.save_pretrained(folder / "outputs" / "digits")
    SamDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder / "outputs" / "digits")
    Image.new("RGB", (64, 48), (90, 120, 30)).save(folder / "picture.jpg")
    return folder


def test_there_are_snippets():
    for name in ("pipeline(", "from_pretrained(", "loss.backward()", "from_preset("):
        assert any(name in snippet for snippet in SNIPPETS), name


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {index}" for index in range(len(SNIPPETS))])
def test_snippet_runs(snippet, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})
    if "print(" in snippet:
        assert capsys.readouterr().out


def test_table_has_all_presets():
    assert {preset for _, preset, *_ in ROWS} == set(PRESETS) - {"sam-detr-tiny"}


@pytest.mark.parametrize("name, preset, parameters, ap12, ap50", ROWS, ids=[row[1] for row in ROWS])
def test_table_row(name, preset, parameters, ap12, ap50):
    with torch.device("meta"):
        model = SamDetrForObjectDetection(SamDetrConfig.from_preset(preset))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == int(parameters.replace(",", ""))
    for epochs, ap in ((12, ap12), (50, ap50)):
        if not preset.endswith("-dn"):
            assert PUBLISHED_AP.get((preset, epochs)) == (None if ap == "–" else float(ap))


@pytest.mark.skipif(not PAPER.is_file(), reason="../shared/paper.txt, the paper's tables, is missing")
def test_published_numbers_are_the_papers():
    tables = PAPER.read_text(encoding="utf-8").split("TABLE 1", 1)[1].split("TABLE 3", 1)[0]
    for name, _, _, *published in ROWS:
        for epochs, ap in zip((12, 50), published, strict=True):
            found = re.findall(rf"^{re.escape(name)} \(Ours\)\s+(?:✓\s+)?{epochs}\s+\d+\s+\d+\s+([\d.]+)", tables, re.M)
            assert found == ([] if ap == "–" else [ap]), (name, epochs)


def test_what_it_points_at_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"\bscripts/\w+\.(?:py|sh)", README)
    assert [link for link in dict.fromkeys(links) if not (ROOT / link).exists()] == []


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert authors == ["Zhang", "Luo", "Yu", "Huang", "Cui", "Lu", "Xing"]
