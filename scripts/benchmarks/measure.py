"""Measures works in turn, each in a process of its own, so that other load affects all alike; on a GPU in one process.

`python -m benchmarks.measure` is the worker: a line of JSON for the work, then `"repeat"` as often as wanted, each
answered by a line.
"""

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import torch

from .machine import worker_environment
from .tasks import Call, prepare
from .work import Measurement, Work

Progress = Callable[[str], None]


class _Worker:
    """A worker process: see `serve`."""

    def __init__(self, work: Work):
        self.errors = tempfile.TemporaryFile("w+")
        environment = worker_environment(OMP_NUM_THREADS=str(work.threads), TOKENIZERS_PARALLELISM="false")
        # a user's second import finds the bytecode of the first
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )

    def ask(self, request: Any) -> dict[str, Any]:
        """Sends a request; raises `RuntimeError` with the worker's last output if there is no answer."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise RuntimeError(f"exit code {code}: {lines[-1] if lines else 'no message'}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@contextlib.contextmanager
def _workers(works: Sequence[Work]) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for work in works:
            workers.append(_Worker(work))
        yield workers
    finally:
        for worker in workers:
            with contextlib.suppress(BrokenPipeError):
                worker.close()


def interleave(works: Sequence[Work], rounds: int = 5, progress: Progress = lambda line: None) -> list[Measurement]:
    """Repeats all works in turn, `rounds` times; all stay in memory meanwhile.

    If a work fails, its measurement has the reason as `error`, and the others go on.

    Args:
        works: to be compared.
        rounds: repetitions of each.
        progress: takes a line of text after each step.

    Raises:
        ValueError: `rounds` is less than 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    measurements = [Measurement(work) for work in works]
    with _workers(works) as workers:
        pairs = list(zip(workers, measurements, strict=True))
        for worker, measurement in pairs:
            try:
                answer = worker.ask(measurement.work.to_dict())
                measurement.first_seconds, measurement.peak_bytes = answer["first_seconds"], answer["peak_bytes"]
            except RuntimeError as error:
                measurement.error = str(error)
            progress(f"{measurement.work.label}: {measurement.error or 'ready'}")
        for turn in range(rounds):
            for worker, measurement in pairs:
                if measurement.error is None:
                    measurement.seconds.append(worker.ask("repeat")["seconds"])
            progress(f"round {turn + 1} of {rounds}")
    return measurements


WARM_UP = 3
"""Repetitions before the measurement, in which kernels are chosen and loaded and memory is allocated."""


def interleave_on_gpu(
    works: Sequence[Work], rounds: int = 20, progress: Progress = lambda line: None
) -> list[Measurement]:
    """As `interleave`, in this process; `peak_bytes` are of tensors on the device, the model included.

    A repetition is timed on the host, from an idle device to an idle device.

    Args:
        works: those to compare with each other, all on `cuda`.
        rounds: repetitions of each.
        progress: takes a line of text after each step.

    Raises:
        ValueError: `rounds` is less than 1, or a work is for another device.
        RuntimeError: there is no GPU.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    for work in works:
        if work.device != "cuda":
            raise ValueError(f"{work.label} is for device={work.device!r}: it must be 'cuda'.")
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch sees no GPU here: measure on the CPU, with --preset quick.")
    _let_libraries_allocate()
    measurements, calls = [Measurement(work) for work in works], {}
    for index, measurement in enumerate(measurements):
        with _reason_in(measurement):
            calls[index] = _warmed_up(measurement)
        progress(f"{measurement.work.label}: {measurement.error or 'ready'}")
    for _ in range(rounds):
        for index, call in calls.items():
            if measurements[index].error is None:
                with _reason_in(measurements[index]):
                    measurements[index].seconds.append(_repeat_on_gpu(call))
    return measurements


@contextlib.contextmanager
def _reason_in(measurement: Measurement) -> Iterator[None]:
    """Stores the reason in the measurement if its work fails, also out of memory."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        measurement.error = str(error).splitlines()[0]


def _let_libraries_allocate() -> None:
    """Allocates the libraries' workspaces, so that they do not count for the first work."""
    x = torch.ones(1, 8, 32, 32, device="cuda", requires_grad=True)
    (torch.nn.functional.conv2d(x, x[:, :, :3, :3]).flatten(2) @ x.new_ones(900, 8)).sum().backward()


def _warmed_up(measurement: Measurement) -> Call:
    """Prepares the work and sets the time of its first repetition and its peak memory."""
    before = torch.cuda.memory_allocated()
    call = prepare(measurement.work)
    measurement.first_seconds = _repeat_on_gpu(call)
    for _ in range(WARM_UP - 1):
        torch.cuda.reset_peak_memory_stats()
        _repeat_on_gpu(call)
    measurement.peak_bytes = torch.cuda.max_memory_allocated() - before
    return call


def _repeat_on_gpu(call: Call) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def resident_peak() -> int:
    """Peak resident bytes of this process since `reset_resident_peak` (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def reset_resident_peak() -> None:
    """Returns unused memory to the system, then resets the peak (Linux)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def repeat(call) -> float:
    """Seconds of one repetition, as returned by the call if it measures itself."""
    start = time.perf_counter()
    own = call()
    elapsed = time.perf_counter() - start
    return own if isinstance(own, float) else elapsed


def serve(requests: TextIO, answers: TextIO) -> None:
    def answer(**values) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    reset_resident_peak()
    interpreter = resident_peak()  # with everything imported, and no model yet
    work = Work(**json.loads(requests.readline()))
    call = prepare(work)
    first = repeat(call)  # compilation included; the second repetition is for memory
    reset_resident_peak()
    repeat(call)
    answer(first_seconds=first, peak_bytes=resident_peak() - interpreter)
    for line in requests:
        if json.loads(line) == "repeat":
            answer(seconds=repeat(call))


def main() -> None:
    # the output of libraries goes to stderr, not between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
