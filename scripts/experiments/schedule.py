"""Runs side by side, each a process of its own: finished ones are passed over, failed ones do not stop the others."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import worker_environment
from transformers_samdetr.training.epoch_log import LOG_FILE, read_log
from transformers_samdetr.training.interruption import EXIT_INTERRUPTED, EXIT_REQUEUE

from .ledger import Ledger
from .runs import Run

POLL_SECONDS = 1.0
LOG_TAIL = 15
"""Lines of a failed run's output that are shown."""
OUTPUT_FILE = "output.txt"
WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass
class Job:
    """A run and what has become of it.

    Attributes:
        run: what is trained.
        folder: of the run alone.
        state: waiting, running, finished (in the ledger, now or before), failed, or stopped (goes on when run again).
        begin: when it was started, in seconds of `time.monotonic`.
        reason: why it failed: the end of its output.
    """

    run: Run
    folder: Path
    state: str = WAITING
    begin: float | None = None
    reason: str = ""
    process: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def last_epoch(self) -> dict | None:
        """The newest line of its log."""
        lines = read_log(self.folder / LOG_FILE)
        return lines[-1] if lines else None


class Schedule:
    """Makes the runs of a plan, so many at a time.

    Args:
        plan: gives the runs in order; asked again whenever one has ended, since some depend on how others went.
        ledger: has the finished ones.
        output_dir: each run has a folder in it.
        data_dir: folder with the real sets, if any is needed.
        jobs: runs at a time; they share the cores.
        show: is told the jobs whenever one has changed, and every second.
        command: what trains a run and writes its ledger entry; by default `worker.py`.

    Raises:
        ValueError: `jobs` is less than 1.
    """

    def __init__(
        self,
        plan: Callable[[], list[Run]],
        ledger: Ledger,
        output_dir: Path,
        data_dir: Path | None = None,
        jobs: int = 1,
        show: Callable[[list[Job]], None] = lambda jobs: None,
        command: Callable[[Run], list[str]] | None = None,
    ):
        if jobs < 1:
            raise ValueError(f"jobs={jobs} is not possible: it must be at least 1.")
        self.plan, self.ledger, self.output_dir, self.data_dir = plan, ledger, output_dir, data_dir
        self.slots, self.show = jobs, show
        self.command = command or self._worker_command
        self.jobs: dict[Run, Job] = {}
        self.stop_requested = False

    def request_stop(self) -> None:
        """Stops the running ones, which save where they stand, and starts no other."""
        self.stop_requested = True

    def make(self) -> list[Job]:
        """Makes all runs; returns every job, in the order of the plan."""
        self._update_plan()
        try:
            while not self.stop_requested and (self._start_ready() or self._running()):
                self.show(list(self.jobs.values()))
                self._wait_for_one()
                self._update_plan()
        finally:
            self._stop_running()
            self.show(list(self.jobs.values()))
        return list(self.jobs.values())

    def _running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state == RUNNING]

    def _update_plan(self) -> None:
        for run in self.plan():
            job = self.jobs.setdefault(run, Job(run, self.output_dir / run.name))
            if job.state == WAITING and self.ledger.read(run) is not None:
                job.state = FINISHED

    def _start_ready(self) -> bool:
        """Starts waiting runs while there is room; returns whether any was started."""
        started = False
        for job in self.jobs.values():
            if job.state != WAITING or len(self._running()) >= self.slots:
                continue
            needed = self.jobs[job.run.needs].state if job.run.needs else FINISHED
            if needed == FAILED:
                job.state, job.reason = FAILED, f"It needs {job.run.needs.name}, which failed."
            elif needed == FINISHED:
                self._start(job)
                started = True
        return started

    def _start(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / OUTPUT_FILE).open("a", encoding="utf-8") as output:
            job.process = subprocess.Popen(
                self.command(job.run),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=worker_environment(OMP_NUM_THREADS=str(max(1, usable_cores() // self.slots))),
            )
        job.state, job.begin = RUNNING, time.monotonic()

    def _worker_command(self, run: Run) -> list[str]:
        command = [sys.executable, "-m", f"{__package__}.worker", run.setting, run.variant]
        command += [f"{run.learning_rate:g}", str(run.seed)]
        command += ["--ledger", str(self.ledger.folder), "--output_dir", str(self.output_dir)]
        return command + (["--data_dir", str(self.data_dir)] if self.data_dir else [])

    def _wait_for_one(self) -> None:
        while self._running() and not self.stop_requested:
            ended = [job for job in self._running() if job.process.poll() is not None]
            if ended:
                for job in ended:
                    self._end(job)
                return
            time.sleep(POLL_SECONDS)
            self.show(list(self.jobs.values()))

    def _end(self, job: Job) -> None:
        code = job.process.returncode
        if code == 0 and self.ledger.read(job.run) is not None:
            job.state = FINISHED
        elif code in (EXIT_REQUEUE, EXIT_INTERRUPTED):
            job.state = STOPPED
        else:
            lines = (job.folder / OUTPUT_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
            job.state = FAILED
            job.reason = "\n".join([f"exit code {code}, {job.folder / OUTPUT_FILE} ends with", *lines[-LOG_TAIL:]])

    def _stop_running(self) -> None:
        running = self._running()
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.wait()
            self._end(job)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
