"""A suite's runs side by side, each in a process of its own, with a table of their progress."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.machine import worker_environment
from transformers_samdetr.training.interruption import EXIT_INTERRUPTED, EXIT_REQUEUE, on_stop_signal
from transformers_samdetr.training.log import LOG_FILE, read_log

from .definitions import SEEDS, Suite
from .runs import Ledger, Run, plan

POLL_SECONDS = 1.0
LOG_TAIL = 15
"""Number of last lines of a failed run's output that are shown."""
OUTPUT_FILE = "output.txt"
WAITING, RUNNING, FINISHED, FAILED, STOPPED = "waiting", "running", "finished", "failed", "stopped"


@dataclass
class Job:
    """A run and its state.

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
    """Makes the runs of a plan, a number of them at a time.

    Args:
        plan: returns the runs in order; called again whenever a run ends, since some depend on the results of others.
        ledger: of finished runs, which are skipped.
        output_dir: each run has a folder in it.
        data_dir: folder with the real sets, if any is needed.
        jobs: runs at a time; they share the cores.
        show: called with the jobs whenever one changes, and every second.
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
            raise ValueError(f"jobs={jobs} must be at least 1.")
        self.plan, self.ledger, self.output_dir, self.data_dir = plan, ledger, output_dir, data_dir
        self.slots, self.show = jobs, show
        self.command = command or self._worker_command
        self.jobs: dict[Run, Job] = {}
        self.stop_requested = False

    def request_stop(self) -> None:
        """Stops running jobs, which save a checkpoint, and starts no other."""
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
        command = [sys.executable, "-m", "experiments.worker", run.setting, run.variant]
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


MOST_ROWS = 30
"""Rows of the table, which must fit on a screen."""


class ProgressTable:
    """Shows jobs as a table on a terminal, or one line a change elsewhere; a context manager.

    Args:
        stream: where to write; standard output by default.
    """

    def __init__(self, stream=None):
        self.console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, refresh_per_second=2) if self.console.is_terminal else None
        self._shown: dict = {}

    def __enter__(self) -> "ProgressTable":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, jobs: list[Job]) -> None:
        """Shows the current state of the jobs."""
        if self.live:
            self.live.update(jobs_table(jobs))
            return
        for job in jobs:
            epoch = (job.last_epoch or {}).get("epoch") if job.state == RUNNING else None
            if self._shown.get(job.run, ("waiting", None)) != (job.state, epoch):
                self._shown[job.run] = (job.state, epoch)
                self.console.print(f"{job.run.name}: {', '.join(filter(None, columns(job)))}", markup=False)


def columns(job: Job) -> tuple[str, str, str, str]:
    """State, epochs, AP and time of a job."""
    line = job.last_epoch
    total = job.run.parts[0].recipe.epochs
    epochs = f"epoch {line['epoch']}/{total}" if line else ""
    precision = f"AP {line['AP']:.1f}" if line else ""
    seconds = time.monotonic() - job.begin if job.state == RUNNING and job.begin is not None else 0
    return job.state, epochs, precision, str(timedelta(seconds=round(seconds))) if seconds >= 1 else ""


def jobs_table(jobs: list[Job]) -> Table:
    """All jobs; without the finished ones if there are too many."""
    counts = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
    table = Table(title=", ".join(f"{count} {state}" for state, count in counts.items()), box=None, pad_edge=False)
    for name in ("run", "state", "epochs", "AP", "time"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    shown = jobs if len(jobs) <= MOST_ROWS else [job for job in jobs if job.state != FINISHED][:MOST_ROWS]
    for job in shown:
        style = {RUNNING: "bold", FAILED: "red"}.get(job.state)
        table.add_row(job.run.name, *columns(job), style=style)
    return table


def make_small_runs(
    suite: Suite,
    ledger: Ledger,
    output_dir: Path,
    data_dir: Path | None = None,
    jobs: int = 1,
    seeds: Sequence[int] = SEEDS,
    variants: Sequence[str] | None = None,
) -> int:
    """Makes the runs that are not in the ledger.

    Returns:
        The exit code: 0, 1 if any run failed, or that of a stop, after which the same goes on.
    """
    with ProgressTable() as progress:
        schedule = Schedule(
            lambda: plan(suite, ledger, seeds, variants), ledger, output_dir, data_dir, jobs, progress.show
        )
        with on_stop_signal(schedule.request_stop) as received:
            made = schedule.make()
    failed = [job for job in made if job.state == FAILED]
    for job in failed:
        print(f"\n{job.run.name} failed: {job.reason}", file=sys.stderr)
    return received.exit_code if schedule.stop_requested else 1 if failed else 0
