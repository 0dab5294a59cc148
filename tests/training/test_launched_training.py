"""`scripts/train.py` on two processes, as a user launches it: one run, with the weights of one process, and its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

from transformers_samdetr.training import processes as training_processes
from transformers_samdetr.training.checkpoint import list_checkpoints
from transformers_samdetr.training.interruption import how_to_go_on
from transformers_samdetr.training.processes import limit_waiting, start_processes

from ..processes import Processes, free_port, run
from ..training_runs import pictures, run_script

REPOSITORY = Path(__file__).parents[2]
PICTURES, EPOCHS, STEPS = 10, 2, 3  # 4 pictures a step, 2 in the last one of an epoch


def arguments(folder, *more):
    """The recipe `tiny` with its own model, denoising, augmentation and schedule, on pictures that take no time.

    With the seed 0 something is decided by rounding alone, and weights end 3e-4 apart.
    """
    own = ["--data", folder.parent / "data", "--output_dir", folder, "--backbone_weights", "none"]
    own += ["--image_size", "64", "--epochs", EPOCHS, "--save_every", "1", "--trackers", "none"]
    own += ["--seed", "3", *more]
    return [str(argument) for argument in own]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of one process's run, beside its data; two micro-batches a step draw the noise of two processes."""
    folder = tmp_path_factory.mktemp("launched")
    DatasetDict(train=pictures(PICTURES, 0), validation=pictures(3, 1)).save_to_disk(folder / "data")
    run(run_script, *arguments(folder / "alone", "--accumulation_steps", "2"), seconds=120)
    return folder / "alone"


def check_result(folder, alone):
    """One run: a line for each epoch, and the weights of one process."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    checkpoint = list_checkpoints(folder / "checkpoints")[0]
    assert json.loads((checkpoint / "run.json").read_text())["progress"]["global_step"] == STEPS * EPOCHS
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, alone))
    assert ours.keys() == theirs.keys()
    difference = max((ours[name] - value).abs().max().item() for name, value in theirs.items())
    print(f"largest difference of a weight: {difference:.1e}")
    assert difference <= 1e-4


def run_script_as_launched(*arguments, output):
    del os.environ["ACCELERATE_USE_CPU"]  # a launcher need not be told that there is no accelerator
    torch.accelerator.is_available = lambda *_: False
    run_script(*arguments, output=output)


def test_two_processes_train_as_one(alone, tmp_path):
    folder = alone.parent / "two"
    run(partial(run_script_as_launched, output=tmp_path / "log"), *arguments(folder), count=2, seconds=120)
    printed = (tmp_path / "log").read_text()
    assert printed.startswith("2 processes train together, on cpu\n")
    assert printed.count("training and") == printed.count("epoch 1/2  loss ") == printed.count("COCO AP") == 1
    assert "Warning" not in printed
    check_result(folder, alone)


def wait_for_each_other():
    """One takes longer to prepare than a peer may be silent, and then falls silent for longer than that."""
    state = start_processes()
    if state.is_main_process:
        time.sleep(2.5)
    limit_waiting(1.0)
    if state.is_main_process:
        time.sleep(5)
        return None
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="(?i)timed out"):
        state.wait_for_everyone()
    return time.monotonic() - begin


def test_the_time_to_wait_counts_in_training_and_not_before():
    _, seconds = run(wait_for_each_other, count=2)
    assert 0.9 < seconds < 4


def start_apart():
    del os.environ["ACCELERATE_USE_CPU"]
    torch.cuda.is_available = lambda: False
    # an accelerator on which Accelerate joins no processes, such as Apple's
    training_processes.torch = SimpleNamespace(accelerator=SimpleNamespace(is_available=lambda: True))
    start_processes()


def test_processes_that_do_not_know_each_other_are_refused():
    with Processes(start_apart, count=2) as processes:
        for rank in (0, 1):
            good, error = processes.outcome(rank)
            assert not good and error.startswith("RuntimeError: 2 processes were launched") and "USE_CPU=true" in error


def test_a_process_that_falls_silent_is_missed(alone, tmp_path):
    train = partial(run_script_as_launched, output=tmp_path / "log")
    options = arguments(tmp_path / "out", "--data", alone.parent / "data", "--epochs", "99", "--peer_timeout", "3")
    with Processes(train, *options, count=2) as processes:
        wait_for_checkpoint(tmp_path / "out", processes.processes[0].is_alive)
        os.kill(processes.processes[1].pid, signal.SIGSTOP)
        good, error = processes.outcome(0, seconds=30)
    assert not good and error.startswith("SystemExit: 1")
    printed = (tmp_path / "log").read_text()
    assert "Process 0 of 2 has lost another one" in printed and "Timed out waiting 3000ms" in printed


def wait_for_checkpoint(folder, is_alive, seconds=120):
    deadline = time.monotonic() + seconds
    while not list_checkpoints(folder / "checkpoints"):
        assert time.monotonic() < deadline and is_alive()
        time.sleep(0.02)


ACCELERATE = ("accelerate.commands.launch", "--config_file", "examples/accelerate_configs/multi_cpu.yaml")
ACCELERATE += ("--num_processes", "2", "--main_process_port")
TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "2", "--master_port")


def launch(folder, *more, program=("scripts/train.py",), by=ACCELERATE):
    """A launcher in a session of its own, as a terminal would start it; its output goes to `folder`.txt."""
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    if torch.accelerator.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-m", *by, str(free_port())]
    with open(folder.with_suffix(".txt"), "a") as output:
        return subprocess.Popen(
            [*command, *program, *arguments(folder, *more)],
            **{"cwd": REPOSITORY, "env": {**environment, "OMP_NUM_THREADS": "1"}, "start_new_session": True},
            **{"stdout": output, "stderr": subprocess.STDOUT},
        )


def workers(launcher):
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def press_ctrl_c(launcher):
    os.killpg(launcher.pid, signal.SIGINT)  # a terminal sends it to all


def terminate(launcher):
    launcher.terminate()


def kill_the_first(launcher):
    os.kill(workers(launcher)[0], signal.SIGKILL)


def kill_the_second(launcher):
    os.kill(workers(launcher)[1], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("end", [press_ctrl_c, terminate, kill_the_first, kill_the_second])
def test_a_launched_run_ends_and_goes_on(alone, end):
    folder = alone.parent / end.__name__
    launcher = launch(folder)
    wait_for_checkpoint(folder, lambda: launcher.poll() is None)
    started, ended = workers(launcher), time.monotonic()
    end(launcher)
    assert launcher.wait(60) == 1  # the launcher's, whatever the processes'
    print(f"all ended after {time.monotonic() - ended:.1f} s")
    assert len(started) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)
    printed = folder.with_suffix(".txt").read_text()
    assert printed.count("2 processes train together, on cpu") == 1
    if "kill" in end.__name__:
        assert f"Process {int(end is kill_the_first)} of 2 has lost another one" in printed
        assert "--resume auto" in printed
    else:
        assert printed.count(f"Stopped as asked, and saved. {how_to_go_on(folder)}") == 1
        assert printed.count("Ctrl-C: saves") == (end is press_ctrl_c)
    assert launch(folder, "--resume").wait(120) == 0
    check_result(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_the_first, kill_the_second])
def test_torchrun_starts_again_from_the_last_checkpoint(alone, kill):
    folder = alone.parent / f"torchrun {kill.__name__}"
    launcher = launch(folder, "--resume", "auto", by=TORCHRUN)
    wait_for_checkpoint(folder, lambda: launcher.poll() is None, seconds=300)
    kill(launcher)
    assert launcher.wait(500) == 0
    printed = folder.with_suffix(".txt").read_text()
    assert printed.count("2 processes train together, on cpu") == 2
    assert re.search(r"steps with 4 pictures, [1-6] done", printed)
    check_result(folder, alone)


@pytest.mark.slow
def test_an_installed_package_is_launched_as_a_module(alone):
    folder = alone.parent / "module"
    assert launch(folder, program=("-m", "transformers_samdetr.commands.train")).wait(300) == 0
    assert "2 processes train together, on cpu" in folder.with_suffix(".txt").read_text()
    check_result(folder, alone)


USED = """
import sys
import torch
from transformers import AutoModelForObjectDetection
from transformers_samdetr import reference_operations

loaded = [AutoModelForObjectDetection.from_pretrained(folder, output_loading_info=True) for folder in sys.argv[1:]]
assert not any(any(loading.values()) for _, loading in loaded), [loading for _, loading in loaded]
(model, _), (compiled, _) = loaded
frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
assert frozen == set(model.frozen_parameters())
for size in ((64, 64), (96, 160), (352, 384)):  # the last one's map is too large to be factored
    pixels, mask = torch.randn(3, 3, *size), torch.ones(3, *size, dtype=torch.int64)
    mask[1, 40:] = mask[2, :, 50:] = 0
    label = {"class_labels": torch.tensor([1, 0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.3, 0.3, 0.2, 0.2]])}
    found = {}
    for plainly in (False, True):
        torch.manual_seed(0)
        model.zero_grad()
        with reference_operations() if plainly else torch.enable_grad():
            outputs = model.train()(pixels, mask, labels=[label] * 3)
            outputs.loss.backward()
        found[plainly] = outputs.loss.item(), outputs.pred_boxes.detach()
        assert all((parameter.grad is None) == (name in frozen) for name, parameter in model.named_parameters())
    torch.testing.assert_close(found[True], found[False], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert compiled.eval()(pixels, mask).logits.isfinite().all()
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_models_are_used_in_another_process_one_of_compiled_layers_too(alone):
    """The recipe `tiny` has denoising queries, of another number in nearly each step."""
    folder = alone.parent / "compiled"
    run(run_script, *arguments(folder, "--compile", "--epochs", "3"), seconds=900)
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3
    subprocess.run([sys.executable, "-c", USED, str(alone), str(folder)], check=True)
