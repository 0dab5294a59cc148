"""Works in turn on a GPU, all in this process: it has the device to itself, and its allocator counts to the byte."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch

from .measure import Measurement, Progress
from .tasks import Call, prepare
from .work import Work

WARM_UP = 3
"""Repetitions that are not counted: kernels are chosen and loaded, and the allocator gets its memory."""


def interleave_on_gpu(
    works: Sequence[Work], rounds: int = 20, progress: Progress = lambda line: None
) -> list[Measurement]:
    """As `measure.interleave`, with `peak_bytes` of tensors on the device, the model's own among them.

    A repetition is timed on the host from an idle device to an idle device, so what the host adds counts.

    Args:
        works: those to compare with each other, all on `cuda`.
        rounds: repetitions of each.
        progress: is told in a line what has been done.

    Raises:
        ValueError: `rounds` is less than 1, or a work is for another device.
        RuntimeError: there is no GPU.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1.")
    for work in works:
        if work.device != "cuda":
            raise ValueError(f"{work.label} is for device={work.device!r}: give it 'cuda'.")
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
                    measurements[index].seconds.append(_repeat(call))
    return measurements


@contextlib.contextmanager
def _reason_in(measurement: Measurement) -> Iterator[None]:
    """A work that fails, for want of memory too, says why, and the others go on."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        measurement.error = str(error).splitlines()[0]


def _let_libraries_allocate() -> None:
    """Their workspaces are of the process, not of the first work."""
    x = torch.ones(1, 8, 32, 32, device="cuda", requires_grad=True)
    (torch.nn.functional.conv2d(x, x[:, :, :3, :3]).flatten(2) @ x.new_ones(900, 8)).sum().backward()


def _warmed_up(measurement: Measurement) -> Call:
    """Prepares the work and fills in what its first repetitions show."""
    before = torch.cuda.memory_allocated()
    call = prepare(measurement.work)
    measurement.first_seconds = _repeat(call)
    for _ in range(WARM_UP - 1):
        torch.cuda.reset_peak_memory_stats()  # the last one's is kept
        _repeat(call)
    measurement.peak_bytes = torch.cuda.max_memory_allocated() - before
    return call


def _repeat(call: Call) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
