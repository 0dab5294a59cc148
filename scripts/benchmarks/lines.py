"""Which lines of the package a forward pass spends its time on."""

import linecache
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import transformers_samdetr

from .models import build_model
from .tasks import make_pixels
from .work import Work

PACKAGE = Path(transformers_samdetr.__file__).parent


@dataclass
class Line:
    """A line of the package and what PyTorch does for it.

    Attributes:
        place: file and line, such as `attention.py:125`.
        code: what stands there.
        operators: PyTorch's operators that it calls, itself or through other libraries, the slowest first.
        seconds: of the processor, median over the repetitions.
    """

    place: str
    code: str
    operators: tuple[str, ...]
    seconds: float


class _Watch(TorchDispatchMode):
    """Processor seconds of each operator, by the innermost line of the package that led to it."""

    def __init__(self):
        super().__init__()
        self.seconds: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        seconds = time.thread_time() - start
        self.seconds[_line_of_package(sys._getframe(1))][func.overloadpacket.__name__] += seconds
        return result


def _line_of_package(frame: FrameType | None) -> tuple[str, int]:
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE) and frame.f_code.co_filename != __file__:
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "", 0


@torch.no_grad()
def profile_lines(work: Work, repetitions: int = 5, most: int = 15) -> list[Line]:
    """The slowest lines of an eager inference of ours, then one for all the others together.

    Processor time of one thread counts, on which other jobs have little influence.

    Raises:
        ValueError: the work is another, or of more threads.
    """
    if not work.is_ours or work.task != "inference" or work.compiled or work.threads != 1:
        raise ValueError(f"Lines are known of an eager inference of ours on one thread, not of {work.label}.")
    torch.set_num_threads(1)
    model, pixels = build_model(work).requires_grad_(False), make_pixels(work)
    runs = []
    for _ in range(repetitions + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=work.dtype == "bfloat16"), _Watch() as watch:
            model(pixels)
        runs.append(watch.seconds)
    runs = runs[1:]  # the first one fills caches
    places = {place for run in runs for place in run}
    lines = [_summed(place, [run.get(place, {}) for run in runs]) for place in places]
    lines.sort(key=lambda line: -line.seconds)
    others = Line("others", "", (), sum(line.seconds for line in lines[most:]))
    return [*lines[:most], others]


def _summed(place: tuple[str, int], runs: list[dict[str, float]]) -> Line:
    file, number = place
    names = {name: statistics.median(run.get(name, 0.0) for run in runs) for run in runs for name in run}
    slowest = sorted(names, key=lambda name: -names[name])
    where = f"{Path(file).name}:{number}" if file else "elsewhere"
    seconds = statistics.median(sum(run.values()) for run in runs)
    return Line(where, linecache.getline(file, number).strip(), tuple(slowest[:3]), seconds)


def lines_report(work: Work, repetitions: int = 5) -> dict[str, Any]:
    """`profile_lines` as plain values, with each line's share of the time of all."""
    lines = profile_lines(work, repetitions)
    total = sum(line.seconds for line in lines)
    rows = [asdict(line) | {"operators": list(line.operators), "share": line.seconds / total} for line in lines]
    return {"label": work.label, "work": work.to_dict(), "lines": rows}
