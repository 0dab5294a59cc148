"""README: its numbers are the models', what it points at exists. `test_documents.py` runs its snippets."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from transformers_samdetr import SamDetrConfig, SamDetrForObjectDetection
from transformers_samdetr.conversion import PUBLISHED_AP
from transformers_samdetr.presets import PRESETS

from .documents import blocks

ROOT = Path(__file__).parents[2]
PAPER = ROOT.parent / "shared" / "paper.txt"
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (SAM-DETR.*?) \| `(.*?)` \| ([\d,]+) \| (\S+) \| (\S+) \|$", README, flags=re.MULTILINE)


def test_there_are_snippets():
    found = [block.text for block in blocks(ROOT / "README.md")]
    for name in ("pipeline(", "from_pretrained(", "loss.backward()"):
        assert any(name in text for text in found), name


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
    scripts = re.findall(r"\bscripts/\w+\.(?:py|sh)", README)
    assert [script for script in dict.fromkeys(scripts) if not (ROOT / script).exists()] == []


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert authors == ["Zhang", "Luo", "Yu", "Huang", "Cui", "Lu", "Xing"]
