"""A picture of the log: losses and average precision by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE_FILE = "curve.png"
COLORS = {"training": "#0072B2", "evaluation": "#D55E00", "AP50": "#6BAED6", "AP75": "#2171B5", "AP": "#08306B"}
"""Those of the pictures of an evaluation."""
WIDTHS = {"AP": 2.4}


def draw_curve(lines: Sequence[Mapping], path: Path) -> None:
    """Draws the lines of `log.jsonl` and writes the picture.

    Args:
        lines: one an epoch, with `EpochLog`'s names; AP in percent.
        path: of the picture; its folder exists.
    """
    curve_figure(lines).savefig(path, dpi=120)


def curve_figure(lines: Sequence[Mapping]) -> "Figure":
    """The losses left, the average precision right; the legends have the values of the last epoch.

    The training loss is drawn without its denoising part, which an evaluation does not have, so that the two lines can
    be compared: where they part, the model learns the training set by heart.

    Args:
        lines: as those of `draw_curve`.
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
                label = f"{name}   {numbers[-1]:.{digits}f}"
                axes.plot(epochs, numbers, color=COLORS[name], linewidth=WIDTHS.get(name, 1.6), marker=".", label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
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
