import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bars import BARS, Bar, InAutocast, measure_bars
from benchmarks.performance_page import HERE, write_report
from benchmarks.profiles import REST, UNCOUNTED, profile_lines, profile_stages
from benchmarks.work import GRIDS, Axis, Measurement, Work, growth_axes
from transformers_samdetr.presets import PRESETS

from ..models import tiny_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
DOCS = SCRIPT.parents[1] / "docs"
OURS, PEER = Work("sam-detr-r50"), Work("conditional-detr-r50")


def measured(work: Work, *seconds: float, **fields) -> Measurement:
    return Measurement(work, list(seconds), seconds[0] if seconds else None, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "detr"}, "model='detr' is unknown: choose one of sam-detr-r50"),
        ({"task": "sleep"}, "task='sleep' is unknown: choose one of inference"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_a_work_that_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Work(**{"model": "sam-detr-r50", **fields})


def test_a_work_survives_the_way_to_its_worker():
    work = Work("sam-detr-r50", overrides=(("num_queries", 100),))
    assert Work(**json.loads(json.dumps(work.to_dict()))) == work
    assert Work("rt-detr-r50").pixel_size == (800, 1088) and PEER.pixel_size == (800, 1066)


def test_the_ratio_is_that_of_medians_and_the_faster_alternative_counts():
    slow, fast = Work("sam-detr-r50", compiled=True), Work("sam-detr-r50", dtype="bfloat16")
    bar = Bar("row", (slow, fast), PEER, bar=0.5, aim=0.3)
    figures = {
        slow: measured(slow, 9.0, 9.0, 9.0),
        fast: measured(fast, 1.0, 4.0, 90.0),
        PEER: measured(PEER, 10.0, 10.0, 1.0),
    }
    row = bar.judge(figures)
    assert row["ratio"] == pytest.approx(0.4) and row["verdict"] == "bar" and row["work"] == fast.label
    figures[fast].seconds = [2.0]
    assert bar.judge(figures)["verdict"] == "aim"
    figures[fast].seconds = [6.0]
    assert bar.judge(figures)["verdict"] == "missed"
    figures[fast].error = "killed"
    assert bar.judge(figures)["ratio"] == pytest.approx(0.9)
    figures[PEER].error = "killed"
    assert bar.judge(figures)["verdict"] == "no figure"


def test_bars_are_the_ones_that_were_set():
    rows = [bar for group in BARS.values() for bar in group if bar.bar is not None]
    assert [(bar.bar, bar.aim) for bar in rows] == [
        (1.2, 1.0), (3.0, 2.3), (0.8, 0.6), (0.8, 0.5), (0.8, 0.6), (0.45, 0.25), (1.2, 1.0), (0.8, 0.5), (0.5, 0.2),
        (1.0, 0.7), (1.1, 0.8),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no group of bars 'speed'"):
        measure_bars(["speed"])


def test_the_full_grid_has_every_combination():
    groups = GRIDS["full"].groups()
    assert len(groups) == 2 * 4 * 3 * 2 * 2 * 2
    assert all(len({work.model for work in works}) == len(works) == 8 for works in groups)
    assert len({work for works in groups for work in works}) == 8 * len(groups)


def test_growth_is_the_slope_in_logarithms():
    works = [Work("sam-detr-r50", objects=n) for n in (1, 10, 100)]
    figures = [measured(work, 3.0 * work.objects**1.5) for work in works]
    axis = Axis("objects", "objects", [1, 10, 100], works, figures)
    assert axis.exponent == pytest.approx(1.5)
    figures[1].error = "killed"
    assert axis.exponent == pytest.approx(1.5)
    figures[2].error = "killed"
    assert axis.exponent is None
    assert {axis.name for axis in growth_axes("sam-detr-r50")} == {"pixels", "queries", "keypoints", "objects"}


def test_stages_count_what_the_shapes_say(monkeypatch):
    encoder = {"encoder_layers": 1, "encoder_ffn_dim": 512}
    monkeypatch.setitem(PRESETS, "sam-detr-tiny", PRESETS["sam-detr-tiny"] | encoder)
    work = Work("sam-detr-tiny", height=64, width=64, threads=torch.get_num_threads())
    stages = {stage.name: stage for stage in profile_stages(work, repetitions=1)}
    positions, queries, layers = 4 * 4, 60, 3
    assert stages["encoder: FFN"].multiply_adds == positions * 2 * 128 * 512
    assert stages["decoder: FFN"].multiply_adds == layers * queries * 2 * 128 * 512
    assert stages["class heads"].multiply_adds == layers * queries * 128 * 91
    # projections of queries, keys, values and result, then scores and sums of values
    attention = positions * 4 * 128 * 128 + 2 * positions * positions * 128
    assert stages["encoder: attention"].multiply_adds == attention
    assert all(stage.seconds > 0 for name, stage in stages.items() if name != REST)
    assert stages[REST].multiply_adds >= 0
    with pytest.raises(ValueError, match="eager inference of ours"):
        profile_stages(PEER)


def test_lines_are_those_of_the_package(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # the tests after it keep theirs
    work = Work("sam-detr-tiny", height=64, width=64, threads=1)
    *lines, others = profile_lines(work, repetitions=1, most=12)
    assert len({line.place for line in lines}) == 12
    assert [line.seconds for line in lines] == sorted((line.seconds for line in lines), reverse=True)
    assert others.place == "others" and others.seconds > 0
    *everything, _ = profile_lines(work, repetitions=1, most=10_000)
    convolution = next(line for line in everything if "convolution" in line.operators)
    assert "conv" in convolution.code or "feature_extractor" in convolution.code
    with pytest.raises(ValueError, match="eager inference"):
        profile_lines(PEER)


def test_a_product_that_is_added_in_place_counts():
    """As the last convolution of each block of a ResNet is at inference."""
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with counter:
        torch.zeros(5, 7).addmm_(torch.ones(5, 3), torch.ones(3, 7))
    assert counter.get_total_flops() == 2 * 5 * 3 * 7


def test_a_model_without_encoder_has_no_encoder_stages():
    stages = profile_stages(Work("sam-detr-tiny", height=64, width=64, threads=torch.get_num_threads()), repetitions=1)
    names = {stage.name for stage in stages}
    assert "decoder: FFN" in names and not any(name.startswith("encoder") for name in names)


def test_a_report_keeps_what_it_does_not_renew(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Mine\n\nbefore\n\n<!-- bars -->\nold\n<!-- /bars -->\n\nafter\n")
    bar = Bar("row", (OURS,), PEER, bar=1.2, aim=1.0)
    for seconds in (3.0, 1.0):
        figures = {OURS: measured(OURS, seconds), PEER: measured(PEER, 2.0)}
        entries = [entry.to_dict() for entry in figures.values()]
        write_report({"bars": [bar.judge(figures)], "measurements": entries}, tmp_path, tmp_path)
    text = page.read_text()
    assert text.startswith("# Mine\n\nbefore\n") and "\nafter\n" in text and "old" not in text
    assert "**0.50**" in text and "**1.50**" not in text
    assert (tmp_path / "NOTES.md").read_text().count("<!-- measurements -->") == 1
    content = json.loads((tmp_path / "performance.json").read_text())
    assert len(content["bars"]) == 1 and len(content["measurements"]) == 2
    assert (tmp_path / "performance.png").stat().st_size > 1000


def test_the_committed_tables_are_those_of_the_committed_figures(tmp_path):
    page, notes = DOCS / "performance.md", HERE / "NOTES.md"
    for path in (page, notes, HERE / "performance.json"):
        shutil.copy(path, tmp_path)
    write_report({}, tmp_path, tmp_path)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in (page, notes))
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_script_measures_in_turn_and_says_what_failed(tmp_path):
    """Two workers with the loss alone, the smallest work there is; one of them cannot do it."""
    grid = "--models sam-detr-tiny dab-detr-r50 --tasks loss --threads 1 --rounds 3".split()
    command = [sys.executable, SCRIPT, *grid, "--output_dir", tmp_path, "--notes_dir", tmp_path]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    written = json.loads((tmp_path / "performance.json").read_text())
    assert set(written) == {"measurements"}  # the page keeps the machine of its bars
    ours, peer = written["measurements"]
    assert len(ours["seconds"]) == 3 and min(ours["seconds"]) > 0 and ours["error"] is None
    assert 2**20 < ours["peak_bytes"] < 2**31  # a loss of a megabyte's logits, in a process of hundreds
    assert "The loss of dab-detr-r50 is not compared" in peer["error"] and not peer["seconds"]
    assert math.isclose(ours["median"], sorted(ours["seconds"])[1])
    assert "sam-detr-tiny loss" in process.stdout and "failed" in process.stdout


def test_precision_is_compared_in_bf16():
    model = tiny_model()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole, half = model(pixel_values=pixels), InAutocast(model)(pixel_values=pixels)
    assert half.logits.dtype == torch.bfloat16 and not torch.equal(whole.logits, half.logits.float())
    torch.testing.assert_close(half.pred_boxes.float(), whole.pred_boxes, atol=0.1, rtol=0)
