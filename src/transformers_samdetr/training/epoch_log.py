"""A JSON line for each epoch, with the columns of the authors' published curves first, and a picture of them all."""

import json
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from .curve import CURVE_FILE, draw_curve
from .progress import TrainingProgress

LOG_FILE = "log.jsonl"
COLUMNS = (
    *("variant", "epoch", "parameters", "lr", "train_loss", "train_loss_ce", "train_loss_bbox", "train_loss_giou"),
    *("test_loss", "AP", "AP50", "AP75", "APs", "APm", "APl"),
)
"""Columns of the published curves. The losses hold their coefficients; `parameters` are those that are trained."""


class EpochLog:
    """Writes `log.jsonl` and `curve.png` on the main process.

    Args:
        output_dir: where the log is; made when the first line is written.
        accelerator: tells the main process.
        variant: name of the recipe.
        parameters: number of trained parameters.
    """

    def __init__(self, output_dir: Path, accelerator: Accelerator, variant: str, parameters: int):
        self.path = output_dir / LOG_FILE
        self.accelerator = accelerator
        self.fixed = {"variant": variant, "parameters": parameters}

    def write(self, progress: TrainingProgress, lr: float, metrics: Mapping[str, float]) -> dict:
        """Adds the line of the epoch that `progress` stands in, and returns it.

        Lines of this epoch and later ones are dropped: a run that was killed before its checkpoint had written them.

        Args:
            progress: with the collected `loss_sums`.
            lr: learning rate of the epoch's last step, of all but the backbone.
            metrics: of the evaluation, `test_loss` among them.
        """
        epoch = progress.epoch + 1
        losses = {f"train_{name}": value / max(progress.step, 1) for name, value in progress.loss_sums.items()}
        known = {**self.fixed, "epoch": epoch, "lr": lr, **losses, **metrics, "seconds": progress.seconds}
        line = {name: known.pop(name, None) for name in COLUMNS} | known
        line = {name: round(value, 6) if isinstance(value, float) else value for name, value in line.items()}
        if self.accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            earlier = [earlier for earlier in read_log(self.path) if earlier["epoch"] < epoch]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in [*earlier, line]), encoding="utf-8")
            partial.replace(self.path)
            draw_curve([*earlier, line], self.path.with_name(CURVE_FILE))
        return line


def read_log(path: Path) -> list[dict]:
    """The lines of a log; none where there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def summary(line: Mapping[str, float], epochs: int) -> str:
    """An epoch for the terminal: losses, AP in percent, and seconds of training."""
    precision = "  ".join(f"{name} {line[name]:5.1f}" for name in ("AP", "AP50", "AP75"))
    return (
        f"epoch {line['epoch']:3d}/{epochs}  loss {line['train_loss']:.3f}  evaluation loss {line['test_loss']:.3f}  "
        f"{precision}  {line['seconds']:.0f} s"
    )
