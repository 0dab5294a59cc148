"""When a run saves, and from where it starts: a hook of the trainer."""

from dataclasses import asdict
from operator import length_hint
from pathlib import Path

from .resume import RunCheckpoints
from .trainer import Trainer

FREE_FIELDS = ("accumulation_steps", "workers")
"""Fields of a recipe that may change on resume, since neither the order of images nor the loss depends on them."""


class Checkpointing:
    """Saves a checkpoint every so many optimizer steps, at the end of each epoch before its evaluation, and on a stop.

    A run that is killed during an evaluation repeats it, and not the epoch.

    Args:
        data_fingerprint: of the data, such as `DetectionData.fingerprint`; a resume with another one is refused.
        every: optimizer steps between checkpoints within an epoch; 0 saves at its end alone.
        keep: so many of the newest checkpoints are kept, and the one of the best evaluation.

    Raises:
        ValueError: `every` is below 0, or `keep` below 1.
    """

    def __init__(self, data_fingerprint: str, every: int = 500, keep: int = 2):
        if every < 0 or keep < 1:
            raise ValueError(f"every={every} and keep={keep} are not possible: at least 0 and 1.")
        self.data_fingerprint, self.every, self.keep = data_fingerprint, every, keep
        self.checkpoints: RunCheckpoints | None = None

    def start(self, trainer: Trainer, resume: str | Path | None = None) -> bool:
        """Gets a trainer ready, and restores it where asked for; returns whether it was restored.

        Args:
            trainer: not trained yet, with this hook among its own.
            resume: a checkpoint's folder; `"auto"` for the newest good one in the output folder, or a fresh start if
                there is none; None for a fresh start.

        Raises:
            CheckpointError: the checkpoint is torn or edited; the message names the file.
            ResumeRefused: it is of another run; or there are checkpoints, and `resume` is None.
        """
        recipe = {name: value for name, value in asdict(trainer.recipe).items() if name not in FREE_FIELDS}
        data = {
            "fingerprint": self.data_fingerprint,
            "training images": trainer.order.num_images,
            "evaluation images": length_hint(trainer.evaluation_set) or "a stream",
            "classes": trainer.names,
        }
        self.checkpoints = RunCheckpoints(
            trainer.accelerator,
            trainer.output_dir / "checkpoints",
            {"recipe": recipe, "data": data},
            self.keep,
            trainer.processor.save_pretrained,
        )
        if resume is None:
            self.checkpoints.refuse_to_overwrite()
            return False
        progress = self.checkpoints.resume(resume)
        if progress is not None:
            trainer.load_state_dict(progress)
        return progress is not None

    def after_step(self, trainer: Trainer) -> None:
        """Saves if it is time."""
        ends = trainer.progress.step == trainer.order.steps_per_epoch
        if ends or (self.every and trainer.progress.global_step % self.every == 0):
            self._save(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        """Nothing: what the evaluation found is found again after a resume."""

    def when_stopped(self, trainer: Trainer) -> None:
        """Saves, unless this step is saved already."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self.checkpoints is None:
            raise RuntimeError("Checkpointing.start(trainer) must be called before trainer.train().")
        best = trainer.progress.best_epoch * trainer.order.steps_per_epoch or None
        self.checkpoints.save(trainer.progress.global_step, trainer.state_dict(), best)
