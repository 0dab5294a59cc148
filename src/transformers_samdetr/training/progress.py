"""Where a run stands: all that training needs besides weights, optimizer and schedule to go on from there."""

from dataclasses import asdict, dataclass, field


@dataclass
class TrainingProgress:
    """Plain numbers, so that a checkpoint can hold them as JSON.

    Attributes:
        epoch: finished epochs, and so the index of the one that runs, from 0.
        step: optimizer steps taken in this epoch.
        global_step: optimizer steps taken in all.
        images: training images seen in all, each repetition counted.
        skipped_steps: optimizer steps that fp16's gradient scaler left out.
        learning_rate: of the last step, of all but the backbone; the log needs it after a resume too.
        seconds: spent on training in this epoch, evaluation not included.
        best_value: best value of the recipe's metric, or None before the first evaluation.
        best_epoch: the epoch that reached it, counted from 1; 0 before the first evaluation.
        epochs_without_improvement: evaluated epochs since then.
        stream: where a streamed training set stood before the pictures of the next step; None for other sets.
        loss_sums: sums over the windows of this epoch of the mean loss and its terms over all processes.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    images: int = 0
    skipped_steps: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0
    best_value: float | None = None
    best_epoch: int = 0
    epochs_without_improvement: int = 0
    stream: dict | None = None
    loss_sums: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict:
        """All fields, ready for JSON."""
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` returned.

        Raises:
            ValueError: the fields are not those of this version; the message names them.
        """
        differing = sorted(state.keys() ^ asdict(self).keys())
        if differing:
            raise ValueError(f"The saved progress does not fit this version of the package: {differing} differ.")
        for name, value in state.items():
            setattr(self, name, value)

    def record(self, value: float) -> bool:
        """Takes note of the metric of the epoch just trained; returns whether it is the best so far."""
        improved = self.best_value is None or value > self.best_value
        if improved:
            self.best_value, self.best_epoch, self.epochs_without_improvement = value, self.epoch + 1, 0
        else:
            self.epochs_without_improvement += 1
        return improved

    def begin_next_epoch(self) -> None:
        """Moves on to the start of the next epoch."""
        self.epoch += 1
        self.step = 0
        self.seconds = 0.0
        self.stream = None
        self.loss_sums = {}
