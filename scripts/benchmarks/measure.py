"""Works in turn, each in a process of its own, so that what else the machine does hits all of them alike."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .machine import worker_environment
from .work import Work

Progress = Callable[[str], None]


@dataclass
class Measurement:
    """What one work took.

    Attributes:
        work: the work.
        seconds: of each repetition, the first ones left out.
        first_seconds: of the very first repetition; with `compiled`, the compiler's time is in it.
        peak_bytes: most memory of the process above the same process with everything imported but no model.
        error: why there are no figures, or None.
    """

    work: Work
    seconds: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies the middle half of the repetitions."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        figures = {"median": self.median, "quartiles": self.quartiles} if self.seconds else {}
        return {**vars(self), "work": self.work.to_dict(), "label": self.work.label, **figures}


class _Worker:
    """The other end of `worker.py`."""

    def __init__(self, work: Work):
        self.errors = tempfile.TemporaryFile("w+")
        environment = worker_environment(OMP_NUM_THREADS=str(work.threads), TOKENIZERS_PARALLELISM="false")
        # a user's second import finds the bytecode of the first
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )

    def ask(self, request: Any) -> dict[str, Any]:
        """Raises `RuntimeError` with the worker's last words where there is no answer."""
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
    """Each work once, then each once again, `rounds` times; they all stay in memory meanwhile.

    A work that fails gets its reason as `error`, and the others go on.

    Args:
        works: those to compare with each other.
        rounds: repetitions of each.
        progress: is told in a line what has been done.

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
