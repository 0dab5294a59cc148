"""Where a run stands, its log with one JSON line an epoch (the authors' columns first), and a picture of the log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import SAFE_WEIGHTS_NAME

from .checkpoint import replace_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_FILE = "log.jsonl"
COLUMNS = (
    *("variant", "epoch", "parameters", "lr", "train_loss", "train_loss_ce", "train_loss_bbox", "train_loss_giou"),
    *("test_loss", "AP", "AP50", "AP75", "APs", "APm", "APl"),
)
"""Columns of the published curves. The losses hold their coefficients; `parameters` are those that are trained."""
CURVE_FILE = "curve.png"
COLORS = {"training": "#0072B2", "evaluation": "#D55E00", "AP50": "#6BAED6", "AP75": "#2171B5", "AP": "#08306B"}
"""Those of the pictures of an evaluation."""


@dataclass
class TrainingProgress:
    """Plain numbers, so that a checkpoint can hold them as JSON."""

    epoch: int = 0  # finished epochs, and so the index of the one that runs, from 0
    step: int = 0  # optimizer steps taken in this epoch
    global_step: int = 0  # optimizer steps taken in all
    images: int = 0  # training images seen in all, each repetition counted
    skipped_steps: int = 0  # optimizer steps that fp16's gradient scaler left out
    learning_rate: float = 0.0  # of the last step, of all but the backbone; the log needs it after a resume too
    seconds: float = 0.0  # spent on training in this epoch, evaluation not included
    best_value: float | None = None  # of the recipe's metric; None before the first evaluation
    best_epoch: int = 0  # the epoch that reached it, counted from 1; 0 before the first evaluation
    epochs_without_improvement: int = 0  # evaluated epochs since then
    stream: dict | None = None  # where a streamed set stood before the pictures of the next step
    loss_sums: dict[str, float] = field(default_factory=dict)  # over this epoch's windows, means over all processes

    def load(self, state: dict) -> None:
        """Takes over all fields, as `dataclasses.asdict` gives them; a ValueError names those of another version."""
        differing = sorted(state.keys() ^ asdict(self).keys())
        if differing:
            raise ValueError(f"The saved progress does not fit this version of the package: {differing} differ.")
        vars(self).update(state)

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
        self.step, self.seconds, self.stream, self.loss_sums = 0, 0.0, None, {}


def epoch_line(progress: TrainingProgress, metrics: Mapping[str, float], variant: str, parameters: int) -> dict:
    """The line of the log for the epoch that `progress` stands in, with its evaluation and the trained parameters."""
    losses = {f"train_{name}": value / max(progress.step, 1) for name, value in progress.loss_sums.items()}
    known = {"variant": variant, "parameters": parameters, "epoch": progress.epoch + 1, "lr": progress.learning_rate}
    known |= {**losses, **metrics, "seconds": progress.seconds}
    line = {name: known.pop(name, None) for name in COLUMNS} | known
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in line.items()}


def write_line(folder: Path, line: Mapping) -> None:
    """Adds an epoch to `log.jsonl` and `curve.png` of a folder, which is made where it is missing.

    Lines of this epoch and later ones are dropped: a run that was killed before its checkpoint had written them.
    """
    lines = [earlier for earlier in read_log(folder / LOG_FILE) if earlier["epoch"] < line["epoch"]] + [line]
    with replace_files(folder) as partial:
        (partial / LOG_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")
        curve_figure(lines).savefig(partial / CURVE_FILE, dpi=120)


def read_log(path: Path) -> list[dict]:
    """The lines of a log; none where there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def logged_metrics(folder: Path) -> tuple[dict[str, float], int | None]:
    """COCO AP, AP50 and AP75, in percent, that were logged for the weights in a training's output, and their epoch.

    The weights are the last epoch's if they were written after the log, as `keep="last"` does, and otherwise those of
    the epoch with the highest AP. Without weights or a log with an AP, an empty dict and None.
    """
    log, weights = folder / LOG_FILE, folder / SAFE_WEIGHTS_NAME
    lines = [line for line in read_log(log) if line.get("AP") is not None]
    if not lines or not weights.is_file():
        return {}, None
    is_last = weights.stat().st_mtime >= log.stat().st_mtime
    line = lines[-1] if is_last else max(lines, key=lambda line: line["AP"])
    return {f"COCO {name}": line[name] for name in ("AP", "AP50", "AP75") if line.get(name) is not None}, line["epoch"]


def curve_figure(lines: Sequence[Mapping]) -> "Figure":
    """The losses of a log's lines left, the average precision right; legends have the values of the last epoch.

    The training loss is drawn without its denoising part, which an evaluation does not have, so that the two lines can
    be compared: where they part, the model learns the training set by heart.
    """
    # here, since all processes import this file, and one of them draws
    from matplotlib.figure import Figure  # a figure of its own needs no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in lines]
    denoising = any(name.startswith("train_dn_") for line in lines for name in line)
    loss_values = {
        "training": [without_denoising(line) for line in lines],
        "evaluation": [line.get("test_loss") for line in lines],
    }
    precision_values = {name: [line.get(name) for line in lines] for name in ("AP50", "AP75", "AP")}
    for axes, columns, digits in ((losses, loss_values, 2), (precision, precision_values, 1)):
        for name, values in columns.items():
            if any(value is not None for value in values):
                numbers = [float("nan") if value is None else value for value in values]
                label, width = f"{name}   {numbers[-1]:.{digits}f}", 2.4 if name == "AP" else 1.6
                axes.plot(epochs, numbers, color=COLORS[name], linewidth=width, marker=".", label=label)
        axes.set(xlabel="epoch", axisbelow=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    losses.set_title("Loss, without its denoising part" if denoising else "Loss")
    precision.set_title("Average precision on the evaluation set (%)")
    precision.set_ylim(bottom=0)
    if lines:
        figure.suptitle(f"Recipe {lines[-1]['variant']}")
    return figure


def without_denoising(line: Mapping) -> float | None:
    """The training loss of a line of the log, less the terms of denoising."""
    if line.get("train_loss") is None:
        return None
    return line["train_loss"] - sum(value for name, value in line.items() if name.startswith("train_dn_"))
