"""What ends a run from outside: a scheduler's signal to stop, Ctrl-C, or another process that is gone."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from accelerate import PartialState

EXIT_REQUEUE = 75
"""Exit code of a run that was told to stop and saved where it stood: EX_TEMPFAIL, "try again later"."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, that of shells: the run shall not be started again by itself."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send before they kill, SIGTERM or with SLURM's `--signal=USR1` the other; and Ctrl-C."""
SAME_PRESS = 1.0
"""A launcher hands on the SIGINT that the terminal sends to all: within so many seconds it is one press of Ctrl-C."""
LOST = re.compile(r"peer|timed? ?out|gloo|nccl|socket|store->|process group", re.IGNORECASE)


class LostProcess(RuntimeError):
    """Another process of the run is gone, so that this one cannot go on."""


@dataclass
class StopSignal:
    """The code with which a run ends that was stopped."""

    exit_code: int = EXIT_REQUEUE


@contextmanager
def on_stop_signal(stop: Callable[[], object]) -> Iterator[StopSignal]:
    """Calls `stop` when one of `SIGNALS` comes, in place of dying of it; in the main thread alone, as Python does.

    A second Ctrl-C does what one did before: `KeyboardInterrupt`, or see `stop_at_once_on_interrupt`; nothing, in a
    process that was started with SIGINT ignored, as shells start jobs in the background.
    """
    received = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    owner, interrupted_at = os.getpid(), None

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a terminal interrupts the workers that load pictures too: these are still needed
            return
        nonlocal interrupted_at
        now = time.monotonic()
        if number == signal.SIGINT and interrupted_at is None:
            interrupted_at, received.exit_code = now, EXIT_INTERRUPTED
            if PartialState().is_main_process:
                text = "Ctrl-C: saves after the running step, then stops. Once more stops at once, without saving."
                os.write(sys.stderr.fileno(), f"\n{text}\n".encode())  # print may be what was interrupted
        elif number == signal.SIGINT and now - interrupted_at > SAME_PRESS:
            if callable(before[number]):  # a shell's `&` ignores it
                before[number](number, frame)
        stop()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_at_once_on_interrupt(output_dir: str | Path) -> Iterator[None]:
    """Ctrl-C ends the process within with a line in place of a traceback, unless `on_stop_signal` takes it.

    It exits right there, since the other processes of the run may wait for this one, and this one for them.
    """

    def leave(*_) -> None:
        if PartialState().is_main_process:
            shown_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
            text = f"{shown_cursor}\nStopped at once, without saving. {how_to_go_on(output_dir)}\n"
            os.write(sys.stderr.fileno(), text.encode())
        os._exit(EXIT_INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def how_to_go_on(output_dir: str | Path) -> str:
    """What to type after a stop."""
    return f"Go on with the same command and --resume (--output_dir {output_dir})."


@contextmanager
def explain_lost_process(output_dir: str | Path) -> Iterator[None]:
    """Raises `LostProcess`, in words, in place of a backend's `RuntimeError` about a broken connection, its cause."""
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
