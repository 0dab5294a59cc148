"""docs/signs.md: made from the JSON beside it, and nothing else; a small run measures what it says."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import __version__ as matplotlib_version
from PIL import Image

from experiments.digit_signs import RUNS, SIGNS, run_signs
from experiments.signs_page import (
    COLOURS,
    HERE,
    LABELS,
    NOTES,
    attention_figure,
    attention_table,
    load_runs,
    matching_difference,
    overfit_table,
    save_runs,
    similarity_figure,
    write_page,
)

from ..models import SMALL_BACKBONE

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "signs.md").read_text(encoding="utf-8")
PICTURES = ("matching.png", "similarity.png", "attention.png")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    overrides = {"backbone_config": SMALL_BACKBONE, "d_model": 32, "num_queries": 8, "encoder_layers": 1}
    overrides = SIGNS.fields | overrides | {"decoder_layers": 2, "decoder_ffn_dim": 32}
    recipe = replace(SIGNS.recipe, backbone_weights=None, model_overrides=overrides, image_size=64, epochs=2)
    setting = replace(SIGNS, recipe=recipe, scenes=(6, 2))
    return run_signs("keypoints-dn", 1, tmp_path_factory.mktemp("run"), setting, probe_scenes=4)


def test_a_run_measures_before_training_and_after_each_epoch(small_run):
    assert (small_run.name, small_run.seed, small_run.steps_per_epoch) == ("keypoints-dn", 1, 2)
    assert small_run.objects >= 4 and small_run.cpu_seconds > 0
    assert [found["epoch"] for found in small_run.epochs] == [0, 1, 2]
    first, *others = small_run.epochs
    assert "changed" not in first and "AP" not in first
    for found in others:
        assert len(found["changed"]) == len(found["instability"]) == 2 and 0 <= found["AP"] <= 100
        assert all(0 <= share <= 1 for share in found["changed"])
    for found in small_run.epochs:
        for space in ("features", "attention"):
            assert len(found[space]["region"]) == len(found[space]["image"]) == 2
        assert len(found["boxes"]["weight"]) == len(found["boxes"]["area"]) == 2
        assert all(0 < share < 1 for shares in found["boxes"].values() for share in shares)


def test_an_unknown_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run 'dn'. Choose one of: keypoints, keypoints-dn, none"):
        run_signs("dn", 0, tmp_path)
    assert set(COLOURS) == set(RUNS)


def test_runs_are_kept_and_replaced(tmp_path):
    path = tmp_path / "folder" / "runs.json"
    save_runs(path, [{"name": "a", "seed": 0, "AP": 1}, {"name": "a", "seed": 1, "AP": 2}], ("name", "seed"))
    save_runs(path, [{"name": "a", "seed": 0, "AP": 3}], ("name", "seed"))
    assert [(run["seed"], run["AP"]) for run in load_runs(path)] == [(0, 3), (1, 2)]


def test_a_variant_that_was_not_learned_is_said_to_be():
    run = {"variant": "dc5", "seed": 0, "steps": [10, 20], "AP": [50.0, 94.9], "cpu_seconds": 90.0}
    assert "| dc5 | 0 | not reached | 20 | 94.9 | 1.5 min |" in overfit_table([run])
    assert "| dc5 | 0 | 20 | 20 | 95.0 | 1.5 min |" in overfit_table([{**run, "AP": [50.0, 95.0]}])


def test_stability_is_compared_in_pairs_of_seeds():
    def run(name, seed, *changed):
        epochs = [{}, *({"changed": [0.9, share], "instability": [9.0, 10 * share]} for share in changed)]
        return {"name": name, "seed": seed, "epochs": epochs}

    runs = [run("keypoints", 0, 0.5, 0.7), run("keypoints", 1, 0.4, 0.6), run("keypoints-dn", 0, 0.3, 0.5)]
    assert "-20.00 % of the objects and -2.00 queries an image (1 pair)" in matching_difference(runs)
    # differences of -20 and -10: half of the interval is 12.706 * 5
    runs.append(run("keypoints-dn", 1, 0.4, 0.4))
    expected = "-15.00 ± 63.53 % of the objects and -1.50 ± 6.35 queries an image (2 pairs of"
    assert expected in matching_difference(runs)
    assert matching_difference(runs[:2]) == "No seed was run with denoising and without."


def test_a_figure_has_a_panel_for_each_layer_and_space(small_run):
    run = small_run.to_dict()
    figure = similarity_figure([{**run, "name": name} for name in RUNS])
    assert len(figure.axes) == 2 * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("aligner, own region", "aligner, whole image", "no aligner, own region", "no aligner, whole image"),
    ]
    figure = attention_figure([{**run, "name": name} for name in RUNS])
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*LABELS.values(), "even attention"]


def test_attention_is_compared_with_the_area():
    def run(seed, *weights):
        epochs = [{"boxes": {"weight": [0.05, weight], "area": [0.05, 0.05]}} for weight in weights]
        return {"name": "keypoints", "seed": seed, "epochs": epochs}

    text = attention_table([run(0, 0.04, 0.1, 0.2), run(1, 0.04, 0.1, 0.1)])
    assert "| aligner | 1 | 5.0 (5.0 to 5.0), 1.0 | 5.0 (5.0 to 5.0), 1.0 | 5.0 (5.0 to 5.0), 1.0 |" in text
    assert "| aligner | 2 | 4.0 (4.0 to 4.0), 0.8 | 10.0 (10.0 to 10.0), 2.0 | 15.0 (10.0 to 20.0), 3.0 |" in text


def test_the_page_is_made_from_its_json_alone(tmp_path):
    """The same text to the byte, and the same pictures where the version of matplotlib is the same."""
    shutil.copytree(HERE / "signs", tmp_path / "signs")
    for path in (DOCS / "signs.md", HERE / NOTES):
        shutil.copy(path, tmp_path)
    write_page(tmp_path, tmp_path)
    assert (tmp_path / "signs.md").read_text(encoding="utf-8") == DOCUMENT and len(DOCUMENT.splitlines()) <= 150
    assert (tmp_path / NOTES).read_bytes() == (HERE / NOTES).read_bytes()
    for name in PICTURES:
        kept, made = DOCS / "signs" / name, tmp_path / "signs" / name
        assert f"(signs/{name})" in DOCUMENT
        assert Image.open(kept).size == Image.open(made).size
        if f"version{matplotlib_version}," in Image.open(kept).info["Software"]:
            assert np.array_equal(np.asarray(Image.open(kept)), np.asarray(Image.open(made))), name
