"""A picture of the log: losses and average precision by epoch."""

from collections.abc import Sequence
from pathlib import Path

CURVE_FILE = "curve.png"


def draw_curve(lines: Sequence[dict], path: Path) -> None:
    """Draws the lines of `log.jsonl` and writes the picture.

    Args:
        lines: one an epoch, with `EpochLog`'s names; AP in percent.
        path: of the picture; its folder exists.
    """
    from matplotlib.figure import Figure  # a figure of its own needs no display
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, precision = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in lines]
    for axes, names in (
        (losses, {"train_loss": "training", "test_loss": "evaluation"}),
        (precision, {"AP50": "AP50", "AP": "AP", "AP75": "AP75"}),
    ):
        for name, label in names.items():
            values = [line.get(name) for line in lines]
            if any(value is not None for value in values):
                axes.plot(epochs, [float("nan") if v is None else v for v in values], marker=".", label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    losses.set_ylabel("loss")
    precision.set_ylabel("average precision (%)")
    precision.set_ylim(bottom=0)
    figure.suptitle(lines[-1]["variant"] if lines else "")
    figure.savefig(path, dpi=120)
