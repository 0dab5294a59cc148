"""Measures works in turn, each in a process of its own, so that other load affects all alike.

`python -m benchmarks.measure` is the worker: a line of JSON for the work, then `"repeat"` as often as wanted, each
answered by a line.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from .machine import worker_environment
from .tasks import prepare
from .work import Measurement, Work

Progress = Callable[[str], None]


class Worker:
    """A process that answers each line of JSON with a line of JSON: see `serve` and `gpu_worker.serve`.

    Args:
        module: what it runs.
        variables: more environment variables.
    """

    def __init__(self, module: str, **variables: str):
        self.errors = tempfile.TemporaryFile("w+")
        environment = worker_environment(TOKENIZERS_PARALLELISM="false", **variables)
        # a user's second import finds the bytecode of the first
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )

    def send(self, request: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """The answer to the oldest request.

        Raises:
            RuntimeError: the process has ended, with its last output; or has not answered within `seconds`.
        """
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            raise RuntimeError(f"no answer after {seconds:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise RuntimeError(f"exit code {code}: {lines[-1] if lines else 'no message'}")
        return json.loads(line)

    def ask(self, request: Any, seconds: float | None = None) -> dict[str, Any]:
        self.send(request)
        return self.receive(seconds)

    def close(self, patience: float = 60) -> None:
        """Ends the process, by force after `patience` seconds."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@contextlib.contextmanager
def _workers(works: Sequence[Work]) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        for work in works:
            workers.append(Worker("benchmarks.measure", OMP_NUM_THREADS=str(work.threads)))
        yield workers
    finally:
        for worker in workers:
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
