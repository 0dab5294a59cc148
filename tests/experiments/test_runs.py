"""Runs of experiments: what they are, that they are pairs, that they resume, and what the ledger keeps of them."""

import io
import json
import sys
from dataclasses import replace

import pytest
import torch

from experiments.definitions import DIGITS, SETTINGS, SUITES, Row, Setting, Suite
from experiments.launch import FAILED, FINISHED, Job, ProgressTable, Schedule, jobs_table
from experiments.models import build_model
from experiments.runs import Ledger, LedgerMismatch, Run, best_learning_rate, plan
from experiments.timing import ClassNames
from experiments.worker import TrainingClock, alone_in, count_trained, train_run
from transformers_samdetr.training import Checkpointing, Trainer
from transformers_samdetr.training.start import boxes_of_objects

from ..models import SMALL_BACKBONE

PEERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("dab-detr", "faster-rcnn")]
SIZES = {"d_model": 32, "num_queries": 6, "encoder_layers": 0, "decoder_layers": 2, "decoder_ffn_dim": 32}
SMALL = {**SIZES, "smca": False, "num_denoising_groups": 0, "backbone_config": SMALL_BACKBONE}


@pytest.fixture
def small_setting(monkeypatch):
    """Four scenes of 64 pixels, and an untrained backbone of a few thousand weights."""
    recipe = replace(
        DIGITS.recipe, model_overrides=SMALL, backbone_weights=None, image_size=64, epochs=2, batch_size=2, workers=0
    )
    setting = Setting("small", "a few scenes", recipe, (1e-3,), scenes=(4, 2))
    monkeypatch.setitem(SETTINGS, "small", setting)
    return setting


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_each_row_is_a_variant_whose_configuration_is_possible(suite):
    for row in suite.rows:
        for setting in suite.settings:
            Run(setting, row.variant, SETTINGS[setting].learning_rates[0], 0).recipe()
        assert set(row.published) <= {"AP", "AP50", "AP75"}


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="variant='sam' is unknown: choose one of .*sam-detr"):
        Run("digits", "sam", 1e-3, 0)
    with pytest.raises(ValueError, match="'sam' is no variant of the suite 'table4', which has"):
        plan(SUITES["table4"], Ledger("nowhere"), variants=["sam"])


@pytest.mark.parametrize("variant", ["detr", "average", "keypoint-1", "sam-detr-smca-dn", "image-range"])
def test_paired_runs_start_from_the_same_weights_where_shapes_agree(small_setting, variant):
    data = small_setting.load_data(None)
    reference = build_model(Run("small", "sam-detr", 1e-3, 3), data, Ledger("nowhere"))[0].state_dict()
    model = build_model(Run("small", variant, 1e-3, 3), data, Ledger("nowhere"))[0].state_dict()
    same = [name for name in model if name in reference and model[name].shape == reference[name].shape]
    assert len(same) > len(model) / 2
    assert all(torch.equal(model[name], reference[name]) for name in same)
    other_seed = build_model(Run("small", variant, 1e-3, 4), data, Ledger("nowhere"))[0].state_dict()
    assert any(not torch.equal(model[name], other_seed[name]) for name in same)


@pytest.mark.parametrize(
    ("variant", "boxes"),
    [("sam-detr", "model.query_reference_boxes"), ("deformable-detr", "peer.detector.model.reference_points.weight")],
)
def test_runs_from_the_sets_boxes_differ_from_the_same_detector_in_them_alone(small_setting, variant, boxes):
    data = small_setting.load_data(None)
    drawn, started = (
        build_model(Run("small", name, 1e-3, 3), data, Ledger("nowhere"))[0].state_dict()
        for name in (variant, f"{variant}-set-boxes")
    )
    assert [name for name in started if not torch.equal(started[name], drawn[name])] == [boxes]


def test_the_sets_boxes_are_those_of_the_runs_seed(small_setting):
    data = small_setting.load_data(None)
    model, _ = build_model(Run("small", "sam-detr-set-boxes", 1e-3, 3), data, Ledger("nowhere"))
    centers = boxes_of_objects(data.train, 6, seed=3)
    torch.testing.assert_close(model.model.query_reference_boxes.sigmoid(), centers, rtol=0, atol=2e-5)


def test_paired_runs_see_the_same_pictures_in_the_same_order(small_setting, tmp_path):
    data = small_setting.load_data(None)
    windows = []
    for variant in ("detr", "sam-detr-dn"):
        run = Run("small", variant, 1e-3, 1)
        model, processor = build_model(run, data, Ledger("nowhere"))
        order = Trainer(model, processor, data.train, data.evaluation, run.recipe(), tmp_path).order
        windows.append([order.window(epoch, step) for epoch in range(2) for step in range(order.steps_per_epoch)])
    assert windows[0] == windows[1]


@pytest.mark.parametrize("variant", ["max", *PEERS])
def test_a_run_is_written_into_the_ledger(small_setting, tmp_path, variant):
    run, ledger = Run("small", variant, 1e-3, 0), Ledger(tmp_path / "ledger")
    assert ledger.read(run) is None
    assert train_run(run, small_setting.load_data(None), ledger, tmp_path / "run") == 0
    entry = ledger.read(run)
    assert [line["epoch"] for line in entry["epochs"]] == [1, 2]
    assert {"AP", "AP50", "AP75", "train_loss", "train_loss_ce", "test_loss", "seconds", "cpu_seconds"} <= set(
        entry["epochs"][0]
    )
    assert all(line["cpu_seconds"] > 0 for line in entry["epochs"])
    assert entry["data"]["training images"] == 4 and entry["identity"]["recipe"]["epochs"] == 2
    assert entry["parameters"] > 1000 and entry["multiply_adds"] > 1000
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("variant", ["sam-detr", pytest.param("transformers-detr", marks=pytest.mark.slow)])
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(small_setting, tmp_path, variant):
    class StopAfterFirstEpoch:
        def after_step(self, trainer): ...

        def when_stopped(self, trainer): ...

        def after_epoch(self, trainer):
            trainer.request_stop()

    run, data = Run("small", variant, 1e-3, 0), small_setting.load_data(None)
    ledgers = [Ledger(tmp_path / name) for name in ("whole", "resumed")]
    train_run(run, data, ledgers[0], tmp_path / "a")
    clock, saving = TrainingClock(), Checkpointing(data.fingerprint, every=0)
    hooks = (clock, saving, StopAfterFirstEpoch())
    trainer = Trainer(
        *build_model(run, data, ledgers[1]), data.train, data.evaluation, run.recipe(), tmp_path / "b", hooks
    )
    clock.start(trainer)
    saving.start(trainer)
    trainer.train()
    assert trainer.stopped and ledgers[1].read(run) is None
    first_epoch = clock.seconds[0]
    train_run(run, data, ledgers[1], tmp_path / "b")
    whole, resumed = (ledger.read(run)["epochs"] for ledger in ledgers)
    assert resumed[0]["cpu_seconds"] == pytest.approx(first_epoch, abs=1e-3)
    timed = ("seconds", "cpu_seconds")
    assert [{k: v for k, v in line.items() if k not in timed} for line in whole] == [
        {k: v for k, v in line.items() if k not in timed} for line in resumed
    ]


def test_a_ledger_entry_of_other_settings_is_refused(small_setting, tmp_path, monkeypatch):
    run, ledger = Run("small", "max", 1e-3, 0), Ledger(tmp_path)
    ledger.write(ledger.path(run), {"identity": run.identity(), "epochs": []})
    assert ledger.read(run) is not None
    monkeypatch.setitem(SETTINGS, "small", replace(small_setting, recipe=replace(small_setting.recipe, epochs=5)))
    with pytest.raises(LedgerMismatch, match=r"recipe.epochs: 2 in the ledger, 5 now\nRemove the file"):
        ledger.read(run)


def test_a_recipe_may_get_new_fields_and_the_ledger_stays_good(small_setting, tmp_path):
    run, ledger = Run("small", "max", 1e-3, 0), Ledger(tmp_path)
    identity = run.identity()
    del identity["recipe"]["shuffle_buffer"]  # as if it were new
    ledger.write(ledger.path(run), {"identity": identity, "epochs": []})
    assert ledger.read(run) is not None
    del identity["recipe"]["image_size"]  # which is not at its default
    ledger.write(ledger.path(run), {"identity": identity, "epochs": []})
    with pytest.raises(LedgerMismatch, match="recipe.image_size: 'nothing' in the ledger, 64 now"):
        ledger.read(run)


def test_other_seeds_wait_for_the_best_learning_rate(small_setting, tmp_path, monkeypatch):
    setting = replace(small_setting, learning_rates=(1e-4, 1e-3))
    monkeypatch.setitem(SETTINGS, "small", setting)
    suite, ledger = Suite("s", "S", None, ("small",), (Row("max", "max"),)), Ledger(tmp_path)
    assert [run.name for run in plan(suite, ledger)] == ["small/max-lr0.0001-seed0", "small/max-lr0.001-seed0"]
    for rate, precision in ((1e-4, 12.0), (1e-3, 10.0)):
        run = Run("small", "max", rate, 0)
        ledger.write(ledger.path(run), {"identity": run.identity(), "epochs": [{"AP": precision}]})
    assert best_learning_rate(setting, "max", 0, ledger) == 1e-4
    assert [run.name for run in plan(suite, ledger)][2:] == ["small/max-lr0.0001-seed1", "small/max-lr0.0001-seed2"]


def test_boxes_of_another_set_wait_for_the_run_that_learns_them(small_setting):
    run = Run("digits", "boxes-of-another-set", 1e-3, 2)
    assert run.needs == Run("cards-at-128", "sam-detr-pp-smca", 1e-3, 2) and run.needs.gives_boxes
    names = [run.name for run in plan(SUITES["table5"], Ledger("nowhere"))]
    assert names.index(run.needs.name) < names.index(run.name)
    with pytest.raises(ValueError, match="takes its reference boxes from cards-at-128/.*, which is not in the ledger"):
        build_model(run, small_setting.load_data(None), Ledger("nowhere"))


def test_a_real_set_without_its_folder_says_which_option_is_missing():
    with pytest.raises(ValueError, match="give the folder that has 'bccd' by --data_dir"):
        SETTINGS["bccd"].load_data(None)


WRITES_ITS_ENTRY = """
import json, pathlib, sys
path = pathlib.Path(sys.argv[1]); path.parent.mkdir(parents=True, exist_ok=True); path.write_text(sys.argv[2])
"""


def test_a_failed_run_does_not_stop_the_others_and_finished_ones_are_passed_over(small_setting, tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    runs = [Run("small", variant, 1e-3, 0) for variant in ("sam-detr", "max", "average")]
    ledger.write(ledger.path(runs[0]), {"identity": runs[0].identity()})
    started = []

    def command(run):
        started.append(run)
        if run == runs[1]:
            return [sys.executable, "-c", "raise SystemExit('no memory left')"]
        entry = json.dumps({"identity": run.identity()})
        return [sys.executable, "-c", WRITES_ITS_ENTRY, str(ledger.path(run)), entry]

    jobs = Schedule(lambda: runs, ledger, tmp_path / "out", jobs=2, command=command).make()
    assert [job.state for job in jobs] == [FINISHED, FAILED, FINISHED]
    assert started == runs[1:]
    assert "exit code 1" in jobs[1].reason and "no memory left" in jobs[1].reason


def test_a_schedule_without_jobs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs=0 must be at least 1"):
        Schedule(list, Ledger(tmp_path), tmp_path, jobs=0)


def test_two_processes_do_not_train_the_same_run(tmp_path):
    with alone_in(tmp_path / "run"):
        with pytest.raises(RuntimeError, match="is in use: another process trains this run"):
            with alone_in(tmp_path / "run"):
                pass
    with alone_in(tmp_path / "run"):
        pass


def test_without_a_terminal_each_change_is_a_line(small_setting, tmp_path):
    stream = io.StringIO()
    jobs = [Job(Run("small", variant, 1e-3, 0), tmp_path / variant) for variant in ("max", "average")]
    table = ProgressTable(stream)
    table.show(jobs)
    jobs[0].state = FINISHED
    table.show(jobs)
    table.show(jobs)
    assert stream.getvalue() == "small/max-lr0.001-seed0: finished\n"
    assert jobs_table(jobs).row_count == 2 and jobs_table(jobs).title == "1 finished, 1 waiting"


@pytest.mark.slow
def test_every_entry_trained_what_is_not_frozen():
    """Its number of trained parameters is that of a new model, with stem, stage 1 and fixed query boxes frozen."""
    counts, ledger = {}, Ledger()
    for path in sorted(ledger.folder.glob("*/*-seed*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        identity, classes = entry["identity"], entry["data"]["classes"]
        key = identity["setting"], identity["variant"]
        if key not in counts:
            run = Run(*key, identity["recipe"]["learning_rate"], identity["seed"])
            model, _ = build_model(run, ClassNames([str(label) for label in range(classes)]), ledger)
            frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
            assert any("blocks.0" in name for name in frozen), key
            is_fixed = identity["recipe"]["model_overrides"].get("reference_boxes") == "fixed"
            assert ("model.query_reference_boxes" in frozen) == is_fixed, key
            counts[key] = count_trained(model)
        assert entry["parameters"] == counts[key], path
    assert len(counts) > 50
