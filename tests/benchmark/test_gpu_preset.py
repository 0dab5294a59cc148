"""`--preset gpu` without a GPU: its plan, its budget, what fails, the page; and all of it on stand-ins."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_worker, tasks
from benchmarks.gpu import MARGIN, Run
from benchmarks.gpu_page import gpu_text
from benchmarks.gpu_plan import EARLIER, GPU_BARS, PLAN, SECONDS, Group
from benchmarks.gpu_worker import Prepared
from benchmarks.measure import Worker
from benchmarks.performance_page import write_report
from benchmarks.work import PEERS, Measurement, Work
from transformers_samdetr.presets import PRESETS

from ..gpu_stand_ins import MAY_BE_MISSING, NAME, gpu_stand_ins, small_works

REPOSITORY = Path(__file__).parents[2]
OURS, PEER, ALONE = (
    Work(model, device="cuda", threads=8) for model in ("sam-detr-r50", "conditional-detr-r50", "dab-detr-r50")
)
MACHINE = {
    **{"gpu": "a GPU", "gpu_memory_gib": 80, "driver": "1.2", "cuda": "13.0", "cudnn": "9", "cpu": "a CPU"},
    **{"cores": 2, "memory_gib": 8, "system": "Linux", "load": 0.1, "versions": {"torch": "2", "transformers": "5"}},
}


# --- the plan --------------------------------------------------------------------------------------------------------


def test_the_plan_measures_whatever_a_bar_needs_in_one_group():
    assert len(GPU_BARS) == 15 and {bar.name for bar in GPU_BARS} >= EARLIER.keys()
    for bar in GPU_BARS:
        assert any({*bar.ours, bar.other} <= set(group.works) for group in PLAN), bar.name


def test_the_bars_are_the_ones_that_were_set():
    assert [(bar.bar, bar.aim) for bar in GPU_BARS] == [
        (1.0, 0.9), (1.0, 0.9), (1.0, None), (1.0, None), *[(0.8, 0.5)] * 8, (0.9, 0.7), (0.8, 0.5), (1.0, 0.8),
    ]  # fmt: skip
    assert [bar.aim_seconds for bar in GPU_BARS if bar.aim_seconds] == [0.005]
    assert [bar.memory for bar in GPU_BARS] == [False] * 14 + [True]


def test_the_plan_has_every_kind_of_work():
    works = {work for group in PLAN for work in group.works}
    assert {work.model for work in works} >= PEERS.keys()
    assert {work.model for work in works if work.is_ours} == {
        "sam-detr-r50",
        "sam-detr-r50-dc5-smca",
        "sam-detr-pp-r50-smca",
    }
    assert {work.task for work in works} == {"inference", "training", "step", "pictures"}
    assert {work.batch_size for work in works if work.task == "inference"} == {1, 8}
    ways = {(work.compiled, work.graphs, work.dtype) for work in works if work.task == "inference"}
    assert len(ways) == 8
    for group in PLAN:
        assert group.least < group.seconds <= 0.4 * SECONDS and len(set(group.works)) == len(group.works)


def test_graphs_are_for_inference_on_a_gpu():
    assert Work("sam-detr-r50", device="cuda", compiled=True, graphs=True).label.endswith(
        "cuda, float32, compiled, graphs"
    )
    with pytest.raises(ValueError, match="graphs=True must be for inference on cuda, not for step on cuda"):
        Work("sam-detr-r50", "step", device="cuda", graphs=True)


# --- the budget, and what fails --------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Scripted:
    """A process whose answers, and the seconds that they take, are given by work and request."""

    started = 0

    def __init__(self, clock: Clock, script: dict, prepare: float = 1.0, repeat: float = 0.1):
        self.clock, self.script, self.seconds = clock, script, {"prepare": prepare, "repeat": repeat}
        self.requests, self.closed, self.process = [], False, SimpleNamespace(stdin=SimpleNamespace(close=lambda: None))
        type(self).started += 1

    def send(self, request):
        assert not self.closed
        self.requests.append(request)

    def receive(self, seconds=None):
        (name, value), *_ = self.requests.pop(0).items()
        if name == "prepare":
            return {"each": [self._answer(name, fields, seconds) for fields in value]}
        return self._answer(name, value, seconds)

    def _answer(self, name, value, seconds):
        work = Work(**value) if isinstance(value, dict) else None
        answer, takes = self.script.get((name, work), ({}, self.seconds.get(name, 0.0)))
        self.clock.now += min(takes, seconds)
        if takes > seconds:
            raise RuntimeError(f"no answer after {seconds:.0f} s")
        if isinstance(answer, Exception):
            raise answer
        return MACHINE if name == "describe" else answer or {"first_seconds": 1.0, "peak_bytes": 2**30, "seconds": 0.5}

    def ask(self, request, seconds=None):
        self.send(request)
        return self.receive(seconds)

    def close(self, patience=60):
        self.closed = True


def scripted_run(plan, script=None, seconds=100.0, **times):
    clock, saved = Clock(), []
    Scripted.started = 0
    run = Run(
        seconds,
        lambda gpu: saved.append(json.loads(json.dumps(gpu))),
        start=lambda: Scripted(clock, script or {}, **times),
        clock=clock,
    )
    return run.measure(plan), saved, clock


def entries(gpu, group=0):
    return {entry["work"]["model"]: entry for entry in gpu["groups"][group]["measurements"]}


def test_what_was_measured_is_saved_after_each_work():
    _, saved, _ = scripted_run([Group("a", (OURS, PEER), 50, 5, rounds=3)])
    ready = [
        sum(entry["first_seconds"] is not None for entry in entries(gpu).values()) for gpu in saved if gpu["groups"]
    ]
    assert ready == [1, 2, 2, 2]  # after each work, at the group's end, and at the end
    assert len(entries(saved[-1])["sam-detr-r50"]["seconds"]) == 3


def test_a_work_that_fails_is_a_row_and_the_rest_goes_on():
    script = {("prepare", PEER): ({"error": "OutOfMemoryError: CUDA out of memory."}, 1.0)}
    gpu, _, _ = scripted_run([Group("a", (OURS, PEER, ALONE), 50, 5, rounds=3)], script)
    found = entries(gpu)
    assert found["conditional-detr-r50"]["error"] == "OutOfMemoryError: CUDA out of memory."
    assert all(len(found[model]["seconds"]) == 3 for model in ("sam-detr-r50", "dab-detr-r50"))
    assert Scripted.started == 1 and "Failed: conditional-detr-r50 inference" in gpu_text(gpu)


@pytest.mark.parametrize(
    "answer",
    [
        ({"error": "AcceleratorError: illegal memory access", "worn": True}, 1.0),
        (RuntimeError("exit code -11: no message"), 1.0),
        ({}, 1e9),
    ],
    ids=["spoiled", "gone", "silent"],
)
def test_a_work_that_takes_its_process_with_it_is_left_out_of_its_group(answer):
    gpu, _, clock = scripted_run([Group("a", (OURS, PEER, ALONE), 50, 5, rounds=3)], {("prepare", PEER): answer})
    found = entries(gpu)
    assert found["conditional-detr-r50"]["error"]
    assert all(len(found[model]["seconds"]) == 3 for model in ("sam-detr-r50", "dab-detr-r50"))
    assert Scripted.started == 2 and clock.now < 50


def test_of_processes_of_their_own_one_that_is_too_slow_leaves_the_others_their_rounds():
    works = [replace(work, compiled=True) for work in (OURS, PEER)]
    works += [replace(work, graphs=True) for work in works]
    script = {("prepare", works[1]): ({}, 1e9)}
    gpu, _, clock = scripted_run([Group("a", tuple(works), 40, 5, rounds=3, apart=True)], script)
    by_work = {Work(**entry["work"]): entry for entry in gpu["groups"][0]["measurements"]}
    assert len(by_work[works[0]]["seconds"]) == 3 and clock.now < 40
    assert by_work[works[1]]["error"].startswith("preparing: no answer after")
    assert by_work[works[3]]["error"].startswith("its process is gone")


def test_a_process_that_does_not_answer_is_ended():
    worker = Worker("benchmarks.gpu_worker")
    with pytest.raises(RuntimeError, match="no answer after 0 s"):
        worker.receive(0.1)
    worker.close(patience=0)
    assert worker.process.returncode == -9


def test_each_group_stops_when_its_share_is_used_and_the_last_ones_are_left_out():
    plan = [Group(name, (OURS, PEER), 20, 5, rounds=1000) for name in "abcdef"]
    gpu, _, clock = scripted_run(plan, seconds=60.0)
    assert clock.now <= 60
    rows = [(row["seconds"], row["left_out"] is None) for row in gpu["groups"]]
    assert rows[0] == (pytest.approx(20, abs=0.2), True) and rows[1][1] and not rows[-1][1]
    assert len(entries(gpu)["sam-detr-r50"]["seconds"]) > 50
    text = gpu_text(gpu)
    assert "Left out: d (0 s were left, and it takes 5 or more)" in text
    assert "of 60 s" in text and gpu["spent"] <= 60 - MARGIN + 1


def test_a_work_for_which_no_time_is_left_says_so():
    gpu, _, _ = scripted_run([Group("a", (OURS, PEER, ALONE), 20, 5)], prepare=8.0)
    assert entries(gpu)["sam-detr-r50"]["seconds"] and entries(gpu)["conditional-detr-r50"]["seconds"]
    assert entries(gpu)["dab-detr-r50"]["error"] == "not measured: the group's share of time was used"
    assert "Its group's share of time was used before it was measured: dab-detr-r50" in gpu_text(gpu)


def test_without_a_gpu_the_preset_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="PyTorch sees no GPU here: measure on the CPU"):
        Prepared()


# --- the page --------------------------------------------------------------------------------------------------------


def measured(work, seconds, **fields):
    return Measurement(work, [seconds] * 3, 1.0, 2**30, **fields).to_dict()


def of_groups(*groups):
    rows = [{"name": name, "left_out": None, "seconds": 1.0, "measurements": found} for name, found in groups]
    return {"machine": MACHINE, "budget": 360, "spent": 300.0, "groups": rows}


def test_before_any_run_every_bar_waits():
    text = gpu_text({"groups": []})
    assert text.startswith("Not run yet on a GPU") and text.count("| waits for a GPU |") == 15
    assert "| SAM-DETR-R50, float32 / conditional-detr-r50 | – | – | – | 1.00 | 0.90 | waits for a GPU | 1.81 |" in text


def test_ratios_are_those_within_a_group():
    found = [measured(OURS, 0.008), measured(PEER, 0.010)]
    later = [measured(replace(OURS, dtype="bfloat16"), 0.02)]
    text = gpu_text(of_groups(("a", found), ("b", later), ("c", [measured(replace(PEER, dtype="bfloat16"), 0.01)])))
    assert (
        "| SAM-DETR-R50, float32 / conditional-detr-r50 | 8 ms | 10 ms | **0.80** | 1.00 | 0.90 | aim met | 1.81 |"
        in text
    )
    assert (
        "| SAM-DETR-R50, bfloat16 / conditional-detr-r50 | – | – | – | 1.00 | 0.90 | waits for a GPU | 1.76 |" in text
    )
    assert "| sam-detr-r50 | 8 ms (**0.80**) | 20 ms |" in text and "| conditional-detr-r50 | 10 ms | 10 ms |" in text
    assert "| sam-detr-r50 | 1,024 MiB (**1.00**) |" in text and "driver 1.2" in text


def test_the_best_graph_counts_and_the_aim_of_graphs_is_in_milliseconds():
    ours = replace(OURS, dtype="bfloat16", graphs=True)
    both = [measured(ours, 0.0048), measured(replace(ours, compiled=True), 0.006)]
    peer = replace(PEER, dtype="bfloat16", graphs=True, compiled=True)
    row = "| SAM-DETR-R50, bfloat16, graphs / conditional-detr-r50, compiled, graphs | 4.8 ms |"
    text = gpu_text(of_groups(("a", [*both, measured(peer, 0.005)])))
    assert f"{row} 5 ms | **0.96** | 1.00 | ≤ 5 ms on an H100 | aim met | – |" in text
    text = gpu_text(of_groups(("a", [*both, measured(peer, 0.004)])))
    assert f"{row} 4 ms | **1.20** | 1.00 | ≤ 5 ms on an H100 | missed | – |" in text


def test_the_hosts_share_takes_the_time_that_was_not_profiled():
    counted = Measurement(OURS, counts={"kernels": 793, "entries": 4000, "busy_seconds": 0.006}).to_dict()
    text = gpu_text(of_groups(("a", [measured(OURS, 0.03)]), ("b", [counted])))
    assert "| sam-detr-r50 | 793 | 4,000 | 6 ms | 30 ms | 80% | – |" in text


def test_a_run_takes_the_place_of_the_one_before_it(tmp_path):
    for seconds in (3.0, 1.0):
        write_report({"gpu": of_groups(("a", [measured(OURS, seconds)]))}, tmp_path, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert "| sam-detr-r50 | 1.00 s |" in text and "3.00 s" not in text
    assert set(json.loads((tmp_path / "performance.json").read_text())) == {"gpu"}


# --- on stand-ins ----------------------------------------------------------------------------------------------------


class InThisProcess:
    """A worker without a process."""

    def __init__(self):
        self.prepared, self.answers = Prepared(), []
        self.process = SimpleNamespace(stdin=SimpleNamespace(close=lambda: None))

    def send(self, request):
        gpu_worker.serve([json.dumps(request)], lambda answer: self.answers.append(json.loads(json.dumps(answer))))

    def receive(self, seconds=None):
        return self.answers.pop(0)

    ask = Scripted.ask
    close = Scripted.close


def test_the_whole_plan_runs_on_stand_ins(tmp_path, monkeypatch):
    """Every work of every group, and the page that it writes."""
    monkeypatch.setattr(gpu_worker, "WARM_UP", 1)
    plan = [replace(group, rounds=1) for group in PLAN]
    with gpu_stand_ins(), small_works():
        worker = InThisProcess()
        monkeypatch.setattr(gpu_worker, "Prepared", lambda: worker.prepared)
        run = Run(1e6, lambda gpu: None, start=lambda: worker, clock=lambda: 0.0)
        gpu = run.measure(plan)
    tasks._kept_model.cache_clear()
    found = [entry for group in gpu["groups"] for entry in group["measurements"]]
    assert not [(entry["label"], entry["error"]) for entry in found if entry["error"]]
    assert len(found) == sum(len(group.works) for group in PLAN)
    shutil.copy(REPOSITORY / "docs" / "performance.md", tmp_path)
    write_report({"gpu": gpu}, tmp_path, tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert f"{NAME}, 80 GiB, driver" in page and "ailed" not in page and "waits for a GPU" not in page
    for table in (
        "inference, batch 1: time",
        "inference, batch 8: time",
        "training step, batch 4: time",
        "peak memory",
    ):
        assert f"| {table} |" in page
    assert "| a picture, eager, float32 | kernels |" in page and page.count(" a second (**") == 2
    assert all(model in page for model in (*PEERS, "sam-detr-r50-dc5-smca")) and len(page.splitlines()) <= 148


def test_a_graph_that_waits_for_the_device_is_refused_before_it_is_captured(monkeypatch):
    modes = []

    def wait():
        if modes and modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with gpu_stand_ins():
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
        monkeypatch.setattr(torch.cuda, "graph", lambda *_: pytest.fail("captured"))
        with pytest.raises(RuntimeError, match="called a synchronizing"):
            gpu_worker.captured(wait)
    assert modes == ["error", "default"]


REHEARSAL = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing!r}))
sys.path.insert(0, {scripts!r})
from dataclasses import replace
from benchmarks import gpu, gpu_plan
from benchmarks.measure import Worker
gpu.start_worker.__code__ = (lambda: Worker("tests.gpu_stand_ins", OMP_NUM_THREADS="1")).__code__
first, compiled = gpu_plan.PLAN[0], gpu_plan.PLAN[3]
gpu_plan.PLAN = (replace(first, works=first.works[:2], rounds=2), replace(compiled, works=compiled.works[:3], rounds=2))
sys.argv = ["benchmark.py", "--preset", "gpu", "--output_dir", {folder!r}, "--notes_dir", {folder!r}]
runpy.run_path({scripts!r} + "/benchmark.py", run_name="__main__")
"""


def test_the_command_runs_without_what_such_a_machine_may_lack(tmp_path):
    """The script as a user starts it, in processes of its own, without the packages of training and evaluation."""
    code = REHEARSAL.format(missing=MAY_BE_MISSING, scripts=str(REPOSITORY / "scripts"), folder=str(tmp_path))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "sam-detr-r50 inference 800x1066 batch 1, cuda, bfloat16, compiled, graphs: ready" in process.stderr
    assert process.stdout.startswith(f"{NAME}, 80 GiB") and (tmp_path / "performance.md").exists()
    assert "**" in process.stdout and "Failed" not in process.stdout


def test_presets_have_the_models_of_the_plan():
    assert {work.model for group in PLAN for work in group.works if work.is_ours} <= PRESETS.keys()
