"""A run goes on from its checkpoint as if it had never stopped, or says why not."""

import contextlib
import json
import os
import re
import resource
import signal
import threading
import time
from functools import partial
from random import Random

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from datasets import DatasetDict
from safetensors.torch import load_file

from transformers_samdetr import SamDetrForObjectDetection
from transformers_samdetr.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    verify_checkpoint,
)
from transformers_samdetr.training.interruption import (
    EXIT_INTERRUPTED,
    EXIT_REQUEUE,
    LostProcess,
    explain_lost_process,
    how_to_go_on,
    on_stop_signal,
    stop_at_once_on_interrupt,
)
from transformers_samdetr.training.resume import Checkpointing, ResumeRefused

from ..models import SMALL_BACKBONE, targets, tiny_model
from ..processes import Processes, run
from ..training_runs import pictures, run_script, run_training, write_output_to

IDENTITY = {"recipe": {"epochs": 3, "seed": 0}, "data": "a1b2"}


class Run:
    """A model, its optimizer and schedule, and steps on random pictures: what Checkpointing has to restore."""

    def __init__(self, folder, identity=IDENTITY, keep=2, seed=0):
        self.accelerator = Accelerator(cpu=True)
        set_seed(seed)
        model = tiny_model(seed=seed, num_denoising_groups=2, backbone_config=SMALL_BACKBONE).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer.optimizer, lambda step: 0.9**step)
        self.accelerator.register_for_checkpointing(self.schedule)
        self.checkpoints = Checkpointing("noise", keep=keep)
        self.checkpoints.attach(self.accelerator, folder, identity)
        self.progress = {"step": 0}

    def step(self, count=1):
        for _ in range(count):
            loss = self.model(pixel_values=torch.randn(2, 3, 64, 64), labels=targets(2, 1)).loss
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.progress["step"] += 1
        return self

    def save(self, best_step=None):
        return self.checkpoints.save(self.progress["step"], self.progress, best_step)

    def state(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_resumed_run_goes_on_bit_equal(tmp_path):
    run = Run(tmp_path).step(2)
    run.progress["loss_sums"] = {"loss": 0.1 + 0.2}
    checkpoint = run.save()
    other = Run(tmp_path, seed=1)  # other weights, other random numbers
    assert other.checkpoints.resume("auto") == run.progress
    assert same(run.state(), other.state())
    after = run.step(2).state()
    # random pictures and denoising noise come from the generator that a second model has just used: load again
    other.progress = other.checkpoints.resume(checkpoint)
    assert same(after, other.step(2).state()) and other.progress["step"] == 4
    assert other.schedule.get_last_lr() == run.schedule.get_last_lr()


def test_what_a_checkpoint_holds(tmp_path):
    checkpoint = Run(tmp_path).step().save()
    names = {path.name for path in checkpoint.iterdir()}
    assert names >= {"model.safetensors", "config.json", "optimizer.bin", "random_states_0.pkl", "run.json"}
    model = SamDetrForObjectDetection.from_pretrained(checkpoint)
    assert same(model.state_dict(), load_file(checkpoint / "model.safetensors"))
    torch.load(checkpoint / "optimizer.bin", weights_only=True)
    state = json.loads((checkpoint / "run.json").read_text())
    assert state["identity"] == IDENTITY and state["num_processes"] == 1 and "torch" in state["versions"]


def test_another_recipe_or_data_is_refused_with_the_difference(tmp_path):
    checkpoint = Run(tmp_path).step().save()
    other = Run(tmp_path, {"recipe": {"epochs": 3, "seed": 1}, "data": "c3d4"})
    with pytest.raises(ResumeRefused) as refusal:
        other.checkpoints.resume("auto")
    message = str(refusal.value)
    assert "recipe.seed: 0 in the checkpoint, 1 now" in message and "data: 'a1b2' in the checkpoint" in message
    assert "epochs" not in message and str(checkpoint) in message
    with pytest.raises(ResumeRefused, match="earlier run"):
        other.checkpoints.resume(None)


def test_more_epochs_and_free_fields_are_allowed(tmp_path, caplog):
    first = {"recipe": {"epochs": 3, "seed": 0, "patience": 1}, "data": "a1b2"}
    checkpoint = Run(tmp_path, first).step().save()
    more = {"recipe": {"epochs": 5, "seed": 0}, "data": "a1b2"}
    assert Run(tmp_path, more).checkpoints.resume("auto")["step"] == 1
    assert "5 instead of 3 epochs" in caplog.text and "schedule over all 5" in caplog.text
    with pytest.raises(ResumeRefused, match=f"epochs: 3 in the checkpoint, 2 now.*--model {checkpoint}"):
        Run(tmp_path, {"recipe": {"epochs": 2, "seed": 0}, "data": "a1b2"}).checkpoints.resume("auto")


@pytest.mark.parametrize(("value", "differs"), [("model", False), ("training_set", True)])
def test_a_field_that_an_older_recipe_lacks_was_at_its_default(value, differs, tmp_path):
    Run(tmp_path).step().save()
    newer = Run(tmp_path, {**IDENTITY, "recipe": {**IDENTITY["recipe"], "initial_boxes": value}})
    if differs:
        with pytest.raises(
            ResumeRefused, match="recipe.initial_boxes: 'nothing' in the checkpoint, 'training_set' now"
        ):
            newer.checkpoints.resume("auto")
    else:
        assert newer.checkpoints.resume("auto")["step"] == 1


def test_another_number_of_processes_is_a_warning(tmp_path, monkeypatch, caplog):
    Run(tmp_path).step().save()
    assert Run(tmp_path).checkpoints.resume("auto")["step"] == 1
    assert "processes" not in caplog.text
    run = Run(tmp_path)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    assert run.checkpoints.resume("auto")["step"] == 1
    assert "Resumed on 2 instead of 1 processes" in caplog.text


def test_deepspeed_is_resumed_on_as_many_processes(tmp_path, monkeypatch):
    Run(tmp_path).step().save()
    run = Run(tmp_path)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ResumeRefused, match="saved by 1 processes of DeepSpeed, which cannot be resumed on 2"):
        run.checkpoints.resume("auto")


def test_other_versions_are_a_warning(tmp_path, monkeypatch, caplog):
    Run(tmp_path).step().save()
    monkeypatch.setattr("transformers_samdetr.training.resume.versions", lambda: {"torch": "9.9"})
    assert Run(tmp_path).checkpoints.resume("auto")["step"] == 1
    assert "torch" in caplog.text and "9.9" in caplog.text


def test_a_torn_newest_checkpoint(tmp_path, caplog):
    run = Run(tmp_path)
    first, second = run.step().save(), run.step().save()
    (second / "optimizer.bin").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=str(second / "optimizer.bin")):
        Run(tmp_path).checkpoints.resume(second)
    assert Run(tmp_path).checkpoints.resume("auto")["step"] == 1
    assert str(second / "optimizer.bin") in caplog.text
    assert list_checkpoints(tmp_path) == [first]  # lest the torn one count among those that are kept


def test_an_older_checkpoint_is_refused_while_a_newer_one_is_good(tmp_path):
    run = Run(tmp_path)
    first, second = run.step().save(), run.step().save()
    with pytest.raises(ResumeRefused, match=f"{second} is newer"):
        Run(tmp_path).checkpoints.resume(first)
    assert Run(tmp_path / "another").checkpoints.resume(first)["step"] == 1


def test_nothing_to_resume(tmp_path):
    assert Run(tmp_path).checkpoints.resume("auto") is None
    with pytest.raises(CheckpointError, match="manifest.json cannot be read"):
        Run(tmp_path).checkpoints.resume(tmp_path / "nowhere")


def test_the_best_is_kept(tmp_path):
    run = Run(tmp_path, keep=1)
    for step in range(1, 5):
        run.step().save(best_step=min(step, 2))
    assert [path.name[-1] for path in list_checkpoints(tmp_path)] == ["4", "2"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin"])
def test_a_full_disk_names_the_file_and_the_last_good_one_loads(tmp_path, file):
    run = Run(tmp_path).step()
    good = run.save()
    larger, smaller = (good / name for name in ("optimizer.bin", "model.safetensors"))
    run.step()
    limit = smaller.stat().st_size // 2 if file == "model.safetensors" else smaller.stat().st_size + 2**20
    assert limit < larger.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match=f"{file}.*The last good checkpoint is {good}"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_checkpoints(tmp_path) == [good] and len(list(tmp_path.iterdir())) == 1
    assert Run(tmp_path).checkpoints.resume("auto")["step"] == 1
    assert run.save() == latest_checkpoint(tmp_path)


def test_a_request_to_stop_is_remembered_and_handlers_are_restored():
    before, requests = signal.getsignal(signal.SIGTERM), []
    with on_stop_signal(lambda: requests.append(1)):
        signal.raise_signal(signal.SIGTERM)
        assert requests == [1]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def interrupt_handler(request):
    """Sets the handler of SIGINT that is the test's parameter; pytest itself may run in the background, without one."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("interrupt_handler", "second"),
    [
        (signal.default_int_handler, pytest.raises(KeyboardInterrupt)),
        (signal.SIG_IGN, contextlib.nullcontext()),
    ],
    indirect=["interrupt_handler"],
    ids=["foreground", "background"],
)
def test_ctrl_c_stops_and_a_second_one_stops_at_once(interrupt_handler, second, monkeypatch, capfd):
    requests = []
    with second, on_stop_signal(lambda: requests.append(1)) as received:
        assert received.exit_code == EXIT_REQUEUE
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a launcher hands it on, at once
        assert requests == [1, 1] and received.exit_code == EXIT_INTERRUPTED == 130
        assert capfd.readouterr().err.count("Ctrl-C: saves after the running step") == 1
        monkeypatch.setattr("transformers_samdetr.training.interruption.SAME_PRESS", 0.0)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is interrupt_handler


def leave_by_ctrl_c(folder):
    write_output_to(folder / "output.txt")
    with stop_at_once_on_interrupt(folder):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_before_training_begins_ends_with_a_line(tmp_path):
    with Processes(leave_by_ctrl_c, tmp_path) as processes:
        processes.processes[0].join(60)
        assert processes.processes[0].exitcode == EXIT_INTERRUPTED
    lines = (tmp_path / "output.txt").read_text().strip().splitlines()
    assert lines == [f"Stopped at once, without saving. {how_to_go_on(tmp_path)}"] and "--resume" in lines[0]


def test_a_thread_may_not_catch_signals_and_need_not():
    def enter():
        with on_stop_signal(lambda: None):
            entered.append(True)

    entered = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered


@pytest.mark.parametrize("message", ["Connection closed by peer [127.0.0.1]:1", "Timed out waiting 60000ms for recv"])
def test_a_lost_process_is_told_from_other_errors(message):
    with pytest.raises(ValueError), explain_lost_process("out"):
        raise ValueError("not this")
    with pytest.raises(RuntimeError, match="^sizes differ"), explain_lost_process("out"):
        raise RuntimeError("sizes differ")
    with pytest.raises(LostProcess, match="--resume auto") as lost, explain_lost_process("out"):
        raise RuntimeError(message)
    assert message in str(lost.value.__cause__)


def results(folder):
    """What a run leaves: weights, the optimizer's and the average's state, the log without times."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    files = {path.name: path.read_bytes() for path in list_checkpoints(folder / "checkpoints")[0].iterdir()}
    for name in ("run.json", MANIFEST):  # seconds are in them
        del files[name]
    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "checkpoint": files,
        "log": [{name: value for name, value in line.items() if name != "seconds"} for line in log],
    }


def train_with_kills(folder, kills, seconds, seed, train=run_training):
    """Kills a run at random moments until `kills` are done, resumes it each time, and returns what was hit.

    Where a run ends before, the next one starts in a folder of its own; all of them are returned.
    """
    random, finished, during_saving, began = Random(seed), [], 0, 0
    while kills > 0 or not finished:
        run_folder = folder / str(len(finished))
        run_folder.mkdir(exist_ok=True)
        with Processes(train, run_folder) as processes:
            process = processes.processes[0]
            process.join(random.uniform(0, seconds) if kills > 0 else 300)
            if process.is_alive():
                process.kill()
                process.join()
                kills -= 1
                began += (run_folder / "checkpoints").is_dir()
                during_saving += any(run_folder.glob("checkpoints/.*"))
                continue
            assert processes.outcome(0)[0], processes.outcome(0)[1]
            finished.append(run_folder)
    print(f"killed after the first checkpoint: {began}, of these while saving or deleting: {during_saving}")
    return finished, during_saving


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    began = time.monotonic()
    run(run_training, folder, None, seconds=120)
    return results(folder), time.monotonic() - began


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(uninterrupted, tmp_path):
    expected, seconds = uninterrupted
    assert [line["epoch"] for line in expected["log"]] == [1, 2, 3]
    for folder in train_with_kills(tmp_path, 2, seconds, seed=0)[0]:
        assert results(folder) == expected


@pytest.mark.slow
def test_twenty_kills_while_saving_too(uninterrupted, tmp_path):
    expected, seconds = uninterrupted
    finished, during_saving = train_with_kills(tmp_path, 20, seconds / 2, seed=1)
    assert during_saving > 0
    for folder in finished:
        assert results(folder) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_REQUEUE), (signal.SIGINT, EXIT_INTERRUPTED)])
def test_the_script_stops_when_told_and_resumes(tmp_path, number, code):
    DatasetDict(train=pictures(12, 0), validation=pictures(3, 1)).save_to_disk(tmp_path / "data")
    out = tmp_path / "out"
    arguments = ["--data", tmp_path / "data", "--output_dir", out, "--image_size", "64", "--save_every", "1"]
    arguments += ["--batch_size", "2", "--epochs", "2", "--learning_rate", "0.001"]
    log = tmp_path / "output.txt"
    with Processes(partial(run_script, output=log), *arguments) as processes:
        deadline = time.monotonic() + 60
        while not list_checkpoints(out / "checkpoints"):
            assert time.monotonic() < deadline and processes.processes[0].is_alive()
            time.sleep(0.02)
        os.kill(processes.processes[0].pid, number)
        assert processes.outcome(0)[1].startswith(f"SystemExit: {code}")
        assert processes.processes[0].exitcode == code
    assert f"Stopped as asked, and saved. {how_to_go_on(out)}" in log.read_text()
    stopped_at = list_checkpoints(out / "checkpoints")[0]
    verify_checkpoint(stopped_at)
    for options, message in (
        ([], "error: .*holds checkpoints of an earlier run"),
        (["--resume", "--learning_rate", "0.1"], "error: .*0.001 in the checkpoint, 0.1 now.*--model .*step-0"),
        (["--resume", tmp_path / "data"], "error: .*manifest.json"),
    ):
        log.unlink()
        with Processes(partial(run_script, output=log), *arguments, *options) as processes:
            assert processes.outcome(0)[1].startswith("SystemExit: 2")
        assert re.search(message, log.read_text()), log.read_text()
    run(run_script, *arguments, "--resume")
    assert [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2]
    assert list_checkpoints(out / "checkpoints")[0].name == "step-000000012" > stopped_at.name
