"""The paper's experiments at its own scale: recipes, commands, and a start on a small folder in COCO's layout."""

import json
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.coco import COCO_RUNS, coco_runs, launch_command, ledger_path, make_coco_runs
from experiments.coco import main as train_on_coco
from experiments.definitions import SUITES
from experiments.peers import PeerConfig
from experiments.runs import Ledger
from transformers_samdetr import SamDetrConfig
from transformers_samdetr.training.recipes import PAPER_RECIPES

from ..detection_folders import write_coco

SCRIPT = Path(__file__).parents[2] / "scripts" / "run_experiments.py"
SMALL = ("epochs=1", "image_size=64", "backbone_weights=none", "batch_size=2", "augmentation=flip", "workers=0")
NARROW = {
    **{"d_model": 32, "num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32},
    **{"decoder_ffn_dim": 32, "backbone_config": {"model_type": "timm_backbone", "backbone": "test_resnet"}},
}


@pytest.mark.parametrize("suite", [suite for suite in SUITES.values() if any(row.recipe for row in suite.rows)])
def test_every_row_has_its_recipe_and_its_architecture_is_possible(suite):
    for run in coco_runs(suite):
        config = SamDetrConfig.from_preset(run.recipe.model, **run.recipe.model_overrides)
        if run.peer is not None:
            assert PeerConfig.beside(config, run.peer).peer == run.peer
        assert run.recipe.batch_size % 8 == 0 and run.recipe.learning_rate == 1e-4 and run.hours > 1


def test_recipes_of_the_paper_are_taken_as_they_are():
    assert all(COCO_RUNS[name].recipe is recipe for name, recipe in PAPER_RECIPES.items())


def test_a_row_on_fewer_gpus_takes_the_same_steps(tmp_path):
    run = COCO_RUNS["sam-detr-r50-12e"]
    command = launch_command(run, "COCO", tmp_path, Ledger("ledger"), processes=2, seed=1, settings={"epochs": 1})
    assert shlex.join(command) == (
        "accelerate launch --num_processes 2 -m experiments.coco sam-detr-r50-12e "
        f"--data COCO --output_dir {tmp_path}/coco/sam-detr-r50-12e-seed1 --ledger ledger --seed 1 "
        "--accumulation_steps 4 --set epochs=1"
    )
    with pytest.raises(ValueError, match="processes=3 must be 8, 4, 2 or 1"):
        launch_command(run, "COCO", tmp_path, Ledger("ledger"), processes=3)


def test_a_dry_run_says_commands_and_cost_and_starts_nothing(tmp_path):
    said = []
    runs = coco_runs(SUITES["table4"])
    assert make_coco_runs(runs, None, tmp_path, Ledger(tmp_path), dry_run=True, say=said.append) == 0
    assert said[0] == "keypoints-8-rw-r50-12e, seed 0: about 3.5 hours on 8 GPUs of 80 GB"
    assert said[1].startswith("  PYTHONPATH=scripts accelerate launch --num_processes 8")
    assert said[-1].startswith("About 7 hours in all") and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="--data FOLDER; --dry_run"):
        make_coco_runs(runs, None, tmp_path, Ledger(tmp_path))


def test_suites_without_rows_on_coco_say_so():
    with pytest.raises(ValueError, match="'table5' is not one of COCO: run it with --scale small"):
        coco_runs(SUITES["table5"])


def coco_folder(folder):
    for split, first in (("train2017", 0), ("val2017", 100)):
        write_coco(folder / "annotations" / f"instances_{split}.json", folder / split, 4, first)
    return folder


@pytest.mark.parametrize(
    "name",
    ["sam-detr-r50-smca-12e", "conditional-detr-r50-12e", pytest.param("faster-rcnn-r50-12e", marks=pytest.mark.slow)],
)
def test_a_row_is_trained_on_a_folder_and_written_into_the_ledger(name, tmp_path):
    words = [
        "--data",
        coco_folder(tmp_path / "coco"),
        "--output_dir",
        tmp_path / "out",
        "--ledger",
        tmp_path / "ledger",
    ]
    words += [word for pair in (*SMALL, f"model_overrides={json.dumps(NARROW)}") for word in ("--set", pair)]
    with pytest.raises(SystemExit) as ended:
        train_on_coco([name, *map(str, words)])
    assert ended.value.code == 0
    entry = json.loads(ledger_path(Ledger(tmp_path / "ledger"), name, 0).read_text())
    assert len(entry["epochs"]) == 1 and entry["data"]["training images"] == 4
    assert entry["identity"]["recipe"]["name"] == name


@pytest.mark.slow
def test_the_script_launches_rows_on_a_folder(tmp_path):
    """Two steps of the real ResNet-50 in small pictures, by `accelerate launch`."""
    command = [sys.executable, SCRIPT, "--suite", "figure6", "--scale", "coco"]
    command += ["--variants", "sam-detr", "--data", coco_folder(tmp_path / "coco"), "--processes", "1"]
    command += ["--output_dir", tmp_path / "out", "--ledger", tmp_path / "ledger"]
    command += [word for pair in (*SMALL, "batch_size=8") for word in ("--set", pair)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ledger_path(Ledger(tmp_path / "ledger"), "sam-detr-r50-12e", 0).is_file()
    again = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=500)
    assert "sam-detr-r50-12e, seed 0: in the ledger" in again.stdout


def test_the_script_says_commands_and_what_is_missing(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run_experiments.py", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code

    assert run("--suite", "figure6", "--scale", "coco", "--dry_run") == 0
    assert capsys.readouterr().out.count("accelerate launch --num_processes 8") == 3
    for words, message in (
        ((), "Say what to do: --suite NAME, --report, or both."),
        (("--suite", "figure6", "--scale", "coco"), "--data FOLDER; --dry_run prints"),
        (("--suite", "figure6", "--variants", "yolo"), "'yolo' is no variant of the suite 'figure6'"),
        (("--suite", "figure6", "--jobs", "0"), "jobs=0 must be at least 1"),
        (("--suite", "figure6", "--set", "epoch=1"), "must be FIELD=VALUE with a field of a recipe"),
    ):
        assert run(*words) == 2
        assert message in capsys.readouterr().err
