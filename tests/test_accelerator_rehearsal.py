"""The tests for GPUs without one, on stand-ins: no typing error waits for the quarter of an hour that one is there."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import accelerator_order
from .accelerator_order import FIRST, LAST, rank

REPOSITORY = Path(__file__).parents[1]


def rehearse(*arguments: str, seconds: int = 240) -> str:
    """The lines that `pytest -m accelerator` prints, of which each test has one."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.gpu_stand_ins", "-p", "no:cacheprovider", "-v"]
    return subprocess.run(
        [*command, "-m", "accelerator", *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "ACCELERATOR_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"},
    ).stdout


def test_what_has_never_run_comes_first():
    names = [*LAST[::-1], "test_something_new", *FIRST[::-1]]
    assert sorted(names, key=rank) == [*FIRST, "test_something_new", *LAST]
    text = "".join(path.read_text(encoding="utf-8") for path in REPOSITORY.glob("tests/model/test_*.py"))
    assert all(f"def {start}" in text for start in (*FIRST, *LAST))


SOME = (
    "compiled_code or captured_graph or pipeline or image_processor or works_are or determinism and single"
    " or (waits or loss) and single and not multi or implementation and single-sdpa"
)


def test_a_test_of_each_kind_runs_on_stand_ins():
    printed = rehearse("tests/model/test_gpu.py", "-k", SOME)
    results = [line for line in printed.splitlines() if "::" in line and "%" in line]
    assert len(results) >= 14 and all(" PASSED" in line for line in results), printed[-6000:]
    assert FIRST[0] in results[0] and FIRST[1] in results[2] and LAST[2] in results[-1]


def test_after_its_time_the_rest_is_left_out(monkeypatch):
    monkeypatch.setattr(accelerator_order, "SECONDS", 0.0)
    for wanted in ("accelerator", "not slow"):
        item = SimpleNamespace(config=SimpleNamespace(getoption=lambda *_, wanted=wanted: wanted))
        if wanted == "accelerator":
            with pytest.raises(pytest.skip.Exception, match="the 0 s of ACCELERATOR_SECONDS are over"):
                accelerator_order.pytest_runtest_setup(item)
        else:
            accelerator_order.pytest_runtest_setup(item)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_test_for_a_gpu_runs_on_stand_ins():
    """But for most cases of the authors' numbers, for fp16, which a CPU refuses, and for minutes of compilation."""
    training = "tests/model/test_gpu.py::test_training_learns_and_its_model_loads"
    left_out = ["--deselect", f"{training}[fp16]", "--deselect", f"{training}[compiled]"]
    printed = rehearse("tests", *left_out, "-k", "not numbers or r50_e12", seconds=1700)
    results = [line for line in printed.splitlines() if "::" in line and "%" in line]
    assert len(results) > 80 and all(" PASSED" in line for line in results), printed[-6000:]
