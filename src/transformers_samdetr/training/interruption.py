"""What ends a run from outside: a scheduler's signal to stop, or another process that is gone."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import InitProcessGroupKwargs

EXIT_REQUEUE = 75
"""Exit code of a run that was told to stop and saved where it stood: EX_TEMPFAIL, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SIGTERM, or with SLURM's `--signal=USR1` the other."""
PEER_TIMEOUT = 60.0
"""Seconds that a process waits for the others before it takes them for lost."""
LOST = re.compile(r"peer|timed? ?out|gloo|nccl|socket|store->|process group", re.IGNORECASE)


class LostProcess(RuntimeError):
    """Another process of the run is gone, so that this one cannot go on."""


@contextmanager
def on_stop_signal(stop: Callable[[], object]) -> Iterator[None]:
    """Calls `stop` when one of `SIGNALS` comes, in place of dying of it.

    Python runs signal handlers in the main thread alone; elsewhere nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def process_group_options(seconds: float = PEER_TIMEOUT) -> InitProcessGroupKwargs:
    """Makes Accelerate's processes wait for each other no longer than this.

    A process that was killed closes its connections and is missed at once; the time is for a machine or a network that
    falls silent. It must be longer than what one process does alone: writing a checkpoint above all.
    """
    # backend=None leaves the choice to Accelerate; the default, "nccl", is refused where there is none
    return InitProcessGroupKwargs(backend=None, timeout=timedelta(seconds=seconds))


@contextmanager
def explain_lost_process(output_dir: str | Path) -> Iterator[None]:
    """Says in words what a backend's message about a broken connection means.

    Raises:
        LostProcess: in place of the backend's `RuntimeError`, which is its cause.
    """
    try:
        yield
    except RuntimeError as error:  # those of torch.distributed are of this class, and Gloo's have none of their own
        if type(error).__module__.split(".")[0] not in ("torch", "builtins") or not LOST.search(str(error)):
            raise
        state = PartialState()
        raise LostProcess(
            f"Process {state.process_index} of {state.num_processes} has lost another one, which was killed or whose "
            "machine or network failed: look at the end of its output. This one stops, since it cannot go on alone. "
            f"Start all again with --resume auto to go on from the last checkpoint in {output_dir}."
        ) from error
