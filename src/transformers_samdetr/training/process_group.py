"""The processes of a run: that they know each other, and how long they wait for each other."""

import os
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import distributed

PEER_TIMEOUT = 60.0
"""Seconds that a process waits for the others in training before it takes them for lost."""
PREPARATION_TIMEOUT = 24 * 60 * 60.0
"""Seconds that it waits before training begins: one process may download or convert the data for all."""


def start_processes() -> PartialState:
    """Joins the processes of the run, if that is not done yet; the first that a script does.

    Who asks Accelerate for them first decides whether `ACCELERATE_USE_CPU` counts; here it does, and where there is no
    accelerator it need not be set. A killed process is noticed at once, a silent one after `limit_waiting` alone.

    Raises:
        RuntimeError: a launcher started several processes, and Accelerate takes each of them for the only one.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    has_begun = distributed.is_initialized()
    on_cpus = launched > 1 and not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpus or parse_flag_from_env("ACCELERATE_USE_CPU"))
    if launched > 1 and state.num_processes == 1:
        raise RuntimeError(
            f"{launched} processes were launched (WORLD_SIZE), but Accelerate joins none on {state.device.type}: each "
            "would train by itself and write the same folder. Set ACCELERATE_USE_CPU=true, or launch one process."
        )
    if distributed.is_initialized() and not has_begun:
        state.wait_for_everyone()  # NCCL connects at the first such call, and then with the time it started with
        distributed.set_timeout(timedelta(seconds=PREPARATION_TIMEOUT))
    return state


def limit_waiting(seconds: float) -> None:
    """From now on the processes wait for each other no longer than this; all call it together.

    A process that was killed closes its connections and is missed at once; the time is for a machine or a network that
    falls silent. It must be longer than what one process does alone: writing a checkpoint above all.

    Raises:
        ValueError: it is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"peer_timeout={seconds} is not possible: it must be above 0 seconds.")
    if distributed.is_initialized():
        PartialState().wait_for_everyone()  # those that still prepare have the longer time
        distributed.set_timeout(timedelta(seconds=seconds))
