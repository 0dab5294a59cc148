"""A suite at small scale from its first run to its last, with a table of how they stand."""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers_samdetr.training.interruption import on_stop_signal

from .ledger import Ledger
from .plan import plan
from .progress_table import ProgressTable
from .schedule import FAILED, Schedule
from .settings import SEEDS
from .suites import Suite


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
