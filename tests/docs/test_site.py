"""The documentation site builds without a warning, loads nothing from elsewhere, and its diagrams are the model's."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_samdetr.attention import gaussian_bias
from transformers_samdetr.geometry import box_to_pixel_corners, center_to_corners, embed_points
from transformers_samdetr.operations import region_align, sample_points

ROOT = Path(__file__).parents[2]
DIAGRAMS = ROOT / "docs" / "diagrams"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_and_every_public_name_is_there(site):
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        html = (site / ("index.html" if str(name) == "index" else f"{name}/index.html")).read_text(encoding="utf-8")
        for reference in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert f'id="{reference}"' in html
    assert not (site / "diagrams").exists()


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"^ +- .*: (\S+\.md)$", text, flags=re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md"))


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|link|img|iframe|source)[^>]* (?:src|href)="?(?:https?:)?//[^">]*', html) == [], (
            page
        )
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")) == [], sheet


@pytest.fixture(scope="module")
def scene():
    return runpy.run_path(str(DIAGRAMS / "scene.py"))


def test_the_diagrams_show_what_the_model_computes(scene):
    made, head, scales = scene["make_scene"](), 3, (0.9, 0.7)
    height, width = made.features.shape[:2]
    box, offsets = torch.tensor(scene["BOX"]), torch.tensor(scene["OFFSETS"])
    maps, valid_size = torch.from_numpy(made.features)[None], torch.tensor([[float(width), float(height)]])
    regions = region_align(maps, box_to_pixel_corners(box[None, None], valid_size), 7)[0, 0]
    assert np.abs(regions.numpy() - made.regions).max() < 1e-5
    sampled = sample_points(regions.permute(2, 0, 1)[None], offsets[None])[0]
    assert np.abs(sampled.numpy() - made.sampled).max() < 1e-5
    points = torch.tensor(made.points, dtype=torch.float32)
    low, high = center_to_corners(box)[:2], center_to_corners(box)[2:]
    assert torch.allclose(points, low + (offsets + 1) / 2 * (high - low), atol=1e-6)
    assert np.array_equal(embed_points(points, scene["CHANNELS"]).numpy(), made.positions)
    centers = (points * valid_size)[None, None]
    bias = gaussian_bias(centers, torch.tensor(scales).expand(1, 1, len(points), 2), height, width).dense()
    assert np.abs(bias[0, head, 0].unflatten(0, (height, width)).numpy() - made.bias(head, scales)).max() < 1e-4


@pytest.mark.slow
def test_the_diagrams_are_drawn_by_their_script(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DIAGRAMS))
    runpy.run_path(str(DIAGRAMS / "draw.py"))["main"](tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name for path in (ROOT / "docs" / "images").glob("how_*.svg")}
