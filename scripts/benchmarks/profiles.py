"""Where a forward pass of ours spends its time: by stage, beside the machine's matrix peak, and by line of code."""

import linecache
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import transformers_samdetr

from .tasks import build_model, make_pixels
from .work import Work

STAGES = {
    "backbone": r"model\.backbone\.feature_extractor",
    "input projections": r"model\.backbone\.input_projections\.\d+",
    "encoder: attention": r"model\.encoder\.layers\.\d+\.self_attn",
    "encoder: FFN": r"model\.encoder\.layers\.\d+\.mlp",
    "decoder: self-attention": r"model\.decoder\.layers\.\d+\.self_attn",
    "decoder: semantics aligner": r"model\.decoder\.layers\.\d+\.aligner",
    "decoder: cross-attention": r"model\.decoder\.layers\.\d+\.cross_attn",
    "decoder: FFN": r"model\.decoder\.layers\.\d+\.mlp",
    "box heads": r"model\.decoder\.box_heads\.\d+",
    "class heads": r"class_heads\.\d+",
}
"""Patterns of module names; everything else is `the rest`."""
REST = "the rest"


@dataclass
class Stage:
    """One stage of the forward pass.

    Attributes:
        name: as in `STAGES`.
        multiply_adds: of its matrix products, convolutions and attention; sampling and elementwise work count 0.
        seconds: median over the repetitions.
    """

    name: str
    multiply_adds: int
    seconds: float


def matrix_peak(dtype: torch.dtype, size: int = 2048, repetitions: int = 7) -> float:
    """Multiply-adds a second of a square matrix product, the best of all repetitions, with the current threads.

    Also tries the product as a 1x1 convolution, which another library computes, faster on some processors.
    """
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    image = left.reshape(1, 1, size, size).permute(0, 3, 1, 2)  # (1, C, 1, S), channels last in memory
    kernel, best = right[:, :, None, None], float("inf")
    for product in (lambda: torch.mm(left, right), lambda: torch.conv2d(image, kernel)):
        for _ in range(repetitions):
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
    return size**3 / best


def _cpu_attention_flops(query, key, value, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of the attention kernel that PyTorch uses on CPUs, which its own counter does not know."""
    batch, heads, queries, width = query
    keys, value_width = key[2], value[3]
    return 2 * batch * heads * queries * keys * (width + value_width)


def _addmm_flops(added, left, right, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of an in-place `addmm_`; PyTorch counts only the out-of-place one."""
    return 2 * left[0] * left[1] * right[1]


UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
    torch.ops.aten.addmm_: _addmm_flops,
}


@contextmanager
def _watched(model: nn.Module, read) -> Iterator[dict[str, list]]:
    """Records by how much `read()` grows in each call of a stage's modules."""
    # a model may have no encoder; every other stage must be found
    expected = [name for name in STAGES if model.config.encoder_layers or not name.startswith("encoder")]
    found: dict[str, list] = {name: [] for name in expected}
    starts: dict[nn.Module, Any] = {}
    handles = []
    matched = [
        (stage, module)
        for path, module in model.named_modules()
        for stage, pattern in STAGES.items()
        if re.fullmatch(pattern, path)
    ]
    missing = set(expected) - {stage for stage, _ in matched}
    if missing:
        raise ValueError(f"{type(model).__name__} has no module for the stages {sorted(missing)}: correct STAGES.")
    for stage, module in matched:
        handles += [
            module.register_forward_pre_hook(lambda module, _: starts.update({module: read()})),
            module.register_forward_hook(lambda module, *_, stage=stage: found[stage].append(read() - starts[module])),
        ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def profile_stages(work: Work, repetitions: int = 5) -> list[Stage]:
    """Multiply-adds and time of each stage of one forward pass, `the rest` last.

    Args:
        work: an eager inference of ours; sets this process's number of threads.

    Raises:
        ValueError: the work is not an eager inference of ours.
    """
    if not work.is_ours or work.task != "inference" or work.compiled:
        raise ValueError(f"Stages need an eager inference of ours, not {work.label}.")
    torch.set_num_threads(work.threads)
    model, pixels = build_model(work).requires_grad_(False), make_pixels(work)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=work.dtype == "bfloat16")

    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with counter, autocast, _watched(model, counter.get_total_flops) as flops:
        model(pixels)
    total_flops = counter.get_total_flops()

    totals, by_stage = [], {name: [] for name in flops}
    for repetition in range(repetitions + 1):
        with autocast, _watched(model, time.perf_counter) as seconds:
            start = time.perf_counter()
            model(pixels)
            total = time.perf_counter() - start
        if repetition:  # the first one fills caches
            totals.append(total)
            for name, values in seconds.items():
                by_stage[name].append(sum(values))
    stages = [Stage(name, sum(flops[name]) // 2, statistics.median(by_stage[name])) for name in flops]
    rest_flops = total_flops // 2 - sum(stage.multiply_adds for stage in stages)
    rest_seconds = statistics.median(totals) - sum(stage.seconds for stage in stages)
    return [*stages, Stage(REST, rest_flops, max(rest_seconds, 0.0))]


def stage_report(work: Work, repetitions: int = 5) -> dict[str, Any]:
    """The stages with the share of the matrix peak that each reaches in this dtype and with these threads."""
    stages = profile_stages(work, repetitions)
    peak = matrix_peak(getattr(torch, work.dtype))
    rows = [asdict(stage) | {"peak_share": _share(stage, peak)} for stage in stages]
    total = Stage("all", sum(s.multiply_adds for s in stages), sum(s.seconds for s in stages))
    rows.append(asdict(total) | {"peak_share": _share(total, peak)})
    return {"label": work.label, "work": work.to_dict(), "matrix_peak": peak, "stages": rows}


def _share(stage: Stage, peak: float) -> float | None:
    return stage.multiply_adds / stage.seconds / peak if stage.seconds else None


PACKAGE = Path(transformers_samdetr.__file__).parent


@dataclass
class Line:
    """The cost of a line of the package.

    Attributes:
        place: file and line, such as `attention.py:125`.
        code: its text.
        operators: PyTorch operators that it calls, directly or through libraries, slowest first.
        seconds: processor time, median over the repetitions.
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
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "", 0


@torch.no_grad()
def profile_lines(work: Work, repetitions: int = 5, most: int = 15) -> list[Line]:
    """The slowest lines of an eager inference of ours, and the sum of all others, in processor time of one thread.

    Raises:
        ValueError: the work is not an eager inference of ours on one thread.
    """
    if not work.is_ours or work.task != "inference" or work.compiled or work.threads != 1:
        raise ValueError(f"Lines need an eager inference of ours on one thread, not {work.label}.")
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
