"""What may act in the middle of a run, such as checkpoints."""

from typing import Any, Protocol


class TrainingHook(Protocol):
    """What may act while a run stands still: weights, optimizer, schedule and progress belong together then.

    All processes call each method together, with the `Trainer`. Its `state_dict()` and its
    `accelerator.save_state` have everything between them. What a subclass leaves out does nothing.
    """

    def after_step(self, trainer: Any) -> None:
        """After each optimizer step; after the last one of an epoch its evaluation is still to come."""

    def after_epoch(self, trainer: Any) -> None:
        """After the evaluation of an epoch, its line in the log, and the model that was kept."""

    def when_stopped(self, trainer: Any) -> None:
        """When all processes agreed to stop: in place of `after_step`, or within an evaluation."""
