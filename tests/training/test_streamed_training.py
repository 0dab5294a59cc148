"""Training on a stream: the script from parquet, resumed as if never stopped, on one process or two."""

import json
import time
from functools import partial

import datasets
import pytest
from datasets import Dataset

from transformers_samdetr.data.dataset_check import Severity, quick_check
from transformers_samdetr.data.load import load_detection_data
from transformers_samdetr.training.checkpoint import list_checkpoints, step_of
from transformers_samdetr.training.interruption import EXIT_REQUEUE

from ..processes import Processes, run
from ..training_runs import pictures, run_script, run_training
from .test_distributed import PLAIN, largest_difference, trained_weights
from .test_resume import results, train_with_kills

STREAM = {"stream": True, "shuffle_buffer": 8, "ema_decay": 0.9}


@pytest.fixture
def parquet(tmp_path):
    """Thirteen pictures to train on, in two files, one of them cut off in the middle, and three to evaluate on."""
    data = pictures(13, 0)
    rows = data.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:300]
    folder = tmp_path / "data"
    folder.mkdir()
    whole = Dataset.from_list(rows, features=data.features)
    whole.select(range(7)).to_parquet(folder / "train-0.parquet", batch_size=3)
    whole.select(range(7, 13)).to_parquet(folder / "train-1.parquet", batch_size=3)
    pictures(3, 1).to_parquet(folder / "validation.parquet")
    return folder


def arguments(data, out, *more):
    chosen = ["--data", data, "--streaming", "--output_dir", out, "--image_size", "64", "--save_every", "1"]
    chosen += ["--batch_size", "2", "--epochs", "2", "--shuffle_buffer", "4", "--backbone_weights", "none"]
    return [*chosen, "--trackers", "none", *more]


def test_the_script_trains_on_a_stream_and_resumes_bit_equal(parquet, tmp_path):
    log = tmp_path / "output.txt"
    run(partial(run_script, output=log), *arguments(parquet, tmp_path / "whole"), seconds=120)
    output = log.read_text()
    assert "a stream of 13 training and a stream of 3 evaluation images" in output
    assert "detected on" in output  # the format of the boxes, on a sample
    assert "only the first pictures were checked, 13 of train and 3 of evaluation" in output
    assert "Skipped image 4 (1 of at most 10): " in output and output.count("Skipped image 4") == 1
    out = tmp_path / "out"
    with Processes(run_script, *arguments(parquet, out)) as processes:
        deadline = time.monotonic() + 60
        while not any(step_of(path) >= 3 for path in list_checkpoints(out / "checkpoints")):
            assert time.monotonic() < deadline and processes.processes[0].is_alive()
            time.sleep(0.02)
        processes.processes[0].terminate()
        assert processes.outcome(0)[1].startswith(f"SystemExit: {EXIT_REQUEUE}")
    newest = list_checkpoints(out / "checkpoints")[0]
    progress = json.loads((newest / "run.json").read_text())["progress"]
    assert progress["step"] == 7 or progress["stream"]["block"] == progress["step"] // 2
    with Processes(run_script, *arguments(parquet, out, "--resume", "--stream_length", "9")) as processes:
        good, error = processes.outcome(0)
        assert not good and "data.training images: 13 in the checkpoint, 9 now" in error
    run(run_script, *arguments(parquet, out, "--resume"), seconds=120)
    assert results(out) == results(tmp_path / "whole")
    assert [line["epoch"] for line in results(out)["log"]] == [1, 2]


def test_a_killed_run_on_a_stream_ends_as_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    began = time.monotonic()
    run(partial(run_training, **STREAM), whole, None, seconds=120)
    seconds = time.monotonic() - began
    train = partial(run_training, **STREAM)
    for folder in train_with_kills(killed, 2, seconds, seed=0, train=train)[0]:
        assert results(folder) == results(whole)


def test_two_processes_train_on_a_stream_as_one_does(tmp_path):
    plain = {**PLAIN, "stream": True, "shuffle_buffer": 8}
    run(partial(run_training, tmp_path / "alone", **plain), seconds=120)
    run(partial(run_training, tmp_path / "together", **plain), count=2, seconds=120)
    assert largest_difference(trained_weights(tmp_path / "together"), trained_weights(tmp_path / "alone")) <= 1e-4


def test_the_fast_check_sees_the_start_of_a_stream(parquet):
    findings = quick_check(load_detection_data(parquet, streaming=True))
    assert "1 of 13 pictures looked at cannot be read" in str(findings) and not findings.of(Severity.ERROR)
    assert "no object" not in str(findings.of(Severity.WARNING))
    rows = pictures(2, 0).to_list()
    for row in rows:
        row["objects"]["bbox"] = [[1.0, 2.0, -3.0, 4.0]] * len(row["objects"]["bbox"])
    wrong = Dataset.from_list(rows, features=pictures(1, 0).features)
    streams = {"train": wrong.to_iterable_dataset(), "validation": pictures(3, 1)}
    data = load_detection_data(streams, box_format="xywh")
    assert "a stream of training and 3 evaluation images" in data.describe()
    with pytest.raises(ValueError, match="negative width or height"):
        quick_check(data).raise_errors("the set")


def test_what_can_and_what_cannot_be_streamed(tmp_path):
    digits = load_detection_data("digits", streaming=True)
    assert digits.describe().startswith("digits: a stream of ")
    pictures(4, 0).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="stream_length=3 is for streams, and .* is none: it has 4 training"):
        load_detection_data(tmp_path / "saved", box_format="xywh", stream_length=3)
