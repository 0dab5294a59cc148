"""What a user sees of many runs: a table on a terminal, a line for each change elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from transformers_samdetr.training.display import clock

from .schedule import FAILED, FINISHED, RUNNING, Job

MOST_ROWS = 30
"""Of a table, which must fit on a screen: what runs, what failed, and what comes next."""


class ProgressTable:
    """Shows jobs; a context, at whose end the table stays.

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
        """Shows how the jobs stand now."""
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
    return job.state, epochs, precision, clock(seconds) if seconds >= 1 else ""


def jobs_table(jobs: list[Job]) -> Table:
    """All jobs, or those that matter now where there are too many."""
    counts = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
    table = Table(title=", ".join(f"{count} {state}" for state, count in counts.items()), box=None, pad_edge=False)
    for name in ("run", "state", "epochs", "AP", "time"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    shown = jobs if len(jobs) <= MOST_ROWS else [job for job in jobs if job.state != FINISHED][:MOST_ROWS]
    for job in shown:
        style = {RUNNING: "bold", FAILED: "red"}.get(job.state)
        table.add_row(job.run.name, *columns(job), style=style)
    return table
