"""Processor time of training: what another process on the same machine changes least."""

import time
from typing import Any


class TrainingClock:
    """Counts the processor time of each epoch's training, all threads together, evaluations and saving left out.

    A hook of the trainer, before `Checkpointing`, with whose checkpoints it is kept: a resumed run goes on counting.

    Attributes:
        seconds: of each finished epoch, and of the running one so far.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = [0.0]
        self._mark = time.process_time()

    def start(self, trainer: Any) -> None:
        """Joins the trainer's checkpoints; call it right before `Checkpointing.start`."""
        trainer.accelerator.register_for_checkpointing(self)

    def begin(self) -> None:
        """What has been before does not count; call it right before `train`."""
        self._mark = time.process_time()

    def after_step(self, trainer: Any) -> None:
        """Counts the step; a new epoch begins with its first step."""
        now = time.process_time()
        while len(self.seconds) <= trainer.progress.epoch:
            self.seconds.append(0.0)
        self.seconds[trainer.progress.epoch] += now - self._mark
        self._mark = now

    def after_epoch(self, trainer: Any) -> None:
        """Leaves out the evaluation."""
        self._mark = time.process_time()

    def when_stopped(self, trainer: Any) -> None:
        """Counts the step after which the run stops; within an evaluation there is none."""
        if trainer.progress.step < trainer.order.steps_per_epoch:
            self.after_step(trainer)

    def state_dict(self) -> dict[str, list[float]]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self.seconds = list(state["seconds"])
