"""Rows on COCO, one after another, each by `accelerate launch`; or only what would be started, and what it costs."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import worker_environment
from transformers_samdetr.training.interruption import EXIT_INTERRUPTED, EXIT_REQUEUE

from .coco import PROCESSES, CocoRun, launch_command, ledger_path
from .ledger import Ledger


def make_coco_runs(
    runs: Sequence[CocoRun],
    data: str | None,
    output_dir: Path,
    ledger: Ledger,
    processes: int = PROCESSES,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Starts what is not in the ledger; a failed run does not stop the others.

    Args:
        runs: of a suite.
        data: a folder in COCO's layout, or a name on the Hub; may be left out of a dry run.
        output_dir, ledger, processes, settings: as in `launch_command`.
        seeds: each row is run with all of them.
        dry_run: says the commands and starts none.
        say: takes a line for the user.

    Returns:
        The exit code: 0, 1 if any run failed, or that of a run that was told to stop.

    Raises:
        ValueError: there is no data to train on.
    """
    if data is None and not dry_run:
        raise ValueError("On COCO the pictures must be named: --data FOLDER, or --dry_run to see the commands.")
    failed, total = [], 0.0
    for seed in seeds:
        for run in runs:
            if ledger_path(ledger, run.name, seed).is_file():
                say(f"{run.name}, seed {seed}: in the ledger")
                continue
            command = launch_command(run, data or "COCO", output_dir, ledger, processes, seed, settings)
            hours = run.hours * PROCESSES / processes
            total += hours
            say(f"{run.name}, seed {seed}: about {hours:.1f} hours on {processes} GPUs of 80 GB")
            say(f"  PYTHONPATH=scripts {shlex.join(command)}")
            if dry_run:
                continue
            # the same program, also where the environment's scripts are not on the path
            launcher = [sys.executable, "-m", "accelerate.commands.launch"]
            code = subprocess.run([*launcher, *command[2:]], env=worker_environment()).returncode
            if code in (EXIT_REQUEUE, EXIT_INTERRUPTED):
                return code
            if code:
                failed.append(f"{run.name}, seed {seed}: exit code {code}")
    say(f"About {total:.0f} hours in all; docs/recipes.md says how they are estimated, within a factor of 2.")
    for line in failed:
        say(f"Failed: {line}")
    return 1 if failed else 0
