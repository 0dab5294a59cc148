"""A process that measures on a GPU what it is asked to: a line of JSON, answered by a line.

| request | answer |
|---|---|
| `{"describe": true}` | the machine |
| `{"prepare": [work, …]}` | `each` work's `first_seconds`, and `peak_bytes` of tensors, the model included |
| `{"repeat": work}` | `seconds` on the host, from an idle device to an idle device |
| `{"count": work}` | see `host_share` |
| `{"drop": true}` | nothing: all that was prepared is dropped |

What fails has `error`, one line, in place of its answer, and `worn` where the process can do nothing more.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import torch
from torch.autograd import DeviceType

from .machine import describe_machine
from .tasks import Call, prepare
from .work import Work

WARM_UP = 3
"""Repetitions before the measurement, in which kernels are chosen and loaded and memory is allocated."""


class Prepared:
    """The calls of the works that were prepared."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no GPU here: measure on the CPU, with --preset quick.")
        self.calls: dict[Work, Call] = {}
        self.failed: set[Work] = set()
        _let_libraries_allocate()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        (name, value), *_ = request.items()
        if name == "describe":
            return describe_machine()
        if name == "drop":
            self.calls.clear()
            torch.cuda.empty_cache()
            return {}
        if name == "prepare":
            return {"each": [_or_error(functools.partial(self.prepare, Work(**fields))) for fields in value]}
        work = Work(**value)
        return {"seconds": _repeat(self.calls[work])} if name == "repeat" else host_share(self.calls[work])

    def prepare(self, work: Work) -> dict[str, Any]:
        self.failed.add(work)
        answer = self._prepare(work)
        self.failed.remove(work)
        return answer

    def _prepare(self, work: Work) -> dict[str, Any]:
        if work.graphs:
            call = captured(self._plain(dataclasses.replace(work, graphs=False)))
            self.calls[work] = call
            # what a graph holds is its pool's, which is not counted as the others' tensors are
            return {"first_seconds": _repeat(call), "peak_bytes": None}
        before = torch.cuda.memory_allocated()
        call = prepare(work)
        first = _repeat(call)
        for _ in range(WARM_UP - 1):
            torch.cuda.reset_peak_memory_stats()
            _repeat(call)
        self.calls[work] = call
        return {"first_seconds": first, "peak_bytes": torch.cuda.max_memory_allocated() - before}

    def _plain(self, work: Work) -> Call:
        if work in self.failed:  # it would take as long again
            raise RuntimeError("it failed without graphs, too")
        if work not in self.calls:
            self.prepare(work)
        return self.calls[work]


def captured(call: Call) -> Call:
    """Replays the kernels of the call, which must not wait for the device; raises RuntimeError if it does."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries allocate their workspaces for the stream that captures
        for _ in range(2):
            call()
        torch.cuda.synchronize()
        # a capture that breaks off spoils those after it in this process
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def _let_libraries_allocate() -> None:
    """Allocates the libraries' workspaces, so that they do not count for the first work."""
    x = torch.ones(1, 8, 32, 32, device="cuda", requires_grad=True)
    (torch.nn.functional.conv2d(x, x[:, :, :3, :3]).flatten(2) @ x.new_ones(900, 8)).sum().backward()


def _repeat(call: Call) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def host_share(call: Call) -> dict[str, float]:
    """What one repetition asks of the host and of the device.

    Returns:
        `kernels`, what the device ran, with copies; `entries` of PyTorch's dispatcher; `busy_seconds`, in which the
        device ran something.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    on_device, entries = [], 0
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            if not getattr(event, "is_user_annotation", False):
                on_device.append((event.time_range.start, event.time_range.end))
        else:
            entries += "::" in event.name and not event.name.startswith("cuda")
    if not on_device:
        raise RuntimeError("the profiler saw nothing on the device")
    return {"kernels": len(on_device), "entries": entries, "busy_seconds": covered(on_device) / 1e6}


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4
    """
    total, end = 0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total


def serve(requests: TextIO, send: Callable[[dict[str, Any]], None]) -> None:
    prepared = Prepared()
    for line in requests:
        send(_or_error(lambda line=line: prepared.answer(json.loads(line))))


def _or_error(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return answer()
    except Exception as error:  # whatever it is: the other works go on
        failed = {"error": one_line(error)}
    return failed if _is_sound() else {**failed, "worn": True}


def _is_sound() -> bool:
    """Whether the device can be used by this process after an error."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return float(torch.ones(8, device="cuda").sum()) == 8
    except RuntimeError:
        return False


def one_line(error: BaseException) -> str:
    """The kind of the error and the first 200 letters of its first line."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def main() -> None:
    # the output of libraries goes to stderr, not between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    serve(sys.stdin, send)


if __name__ == "__main__":
    main()
