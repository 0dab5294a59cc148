"""A scheduler's wish to stop: heard in the middle of a step, answered after it, by all processes at the same step."""

import signal
import threading
from types import FrameType

import torch
from accelerate import PartialState

EXIT_REQUEUE = 75
"""Exit code of a run that was told to stop and saved where it stood: EX_TEMPFAIL, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SIGTERM, or with SLURM's `--signal=USR1` the other."""


class StopRequest:
    """Remembers within its `with` block that one of `SIGNALS` came, instead of dying of it.

    Python runs signal handlers in the main thread alone; elsewhere nothing is caught.
    """

    def __init__(self) -> None:
        self.here = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.here = True

    def anywhere(self) -> bool:
        """Whether any process was told to stop: collective, so that all of them stop at the same step."""
        return on_any_process(self.here)


def on_any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; collective."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    count = torch.tensor(int(flag), device=state.device)
    torch.distributed.all_reduce(count)
    return count.item() > 0
