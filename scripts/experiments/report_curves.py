"""AP by epoch and by training time, and the published curves from a copy of their figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .comparison import Comparison, RowRuns
from .published_terms import read_published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F3C8D", "#999999")
"""Told apart by most eyes."""
BANDS = 8
"""Up to so many curves have a band over all epochs; more would hide each other's."""
LONG_LABEL = 56
"""Characters of the longest label of which three stand side by side."""
FIXED = {"dpi": 110, "metadata": {"Software": None}}
"""So that a picture's bytes depend on its lines alone, and not on the version or the day."""


def save_curves(comparison: Comparison, path: Path, variants: Sequence[str] = ()) -> None:
    """Writes the picture of a comparison; its folder exists."""
    curves_figure(comparison, variants).savefig(path, **FIXED)


def curves_figure(comparison: Comparison, variants: Sequence[str] = ()) -> "Figure":
    """AP by epoch left, by processor time of training right.

    Bands reach from the worst to the best seed; of many curves a line beside their end does.

    Args:
        comparison: gives each row that was run its colour.
        variants: whose rows alone are drawn; all by default.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    by_epoch, by_time = figure.subplots(1, 2, sharey=True)
    shown = [
        (index, row) for index, row in enumerate(comparison.measured) if row.row.variant in variants or not variants
    ]
    crowded = len(shown) > BANDS
    for index, row in shown:
        colour, line = COLOURS[index % len(COLOURS)], ("-", "--")[index // len(COLOURS)]
        values = np.array([row.curve(seed) for seed in row.entries])
        epochs = np.arange(1, values.shape[1] + 1)
        times = np.array([row.clock(seed) for seed in row.entries]).mean(0)
        # lines of curves that end together stand side by side
        for axes, places, aside in ((by_epoch, epochs, 0.22 * (index + 1)), (by_time, times, 0)):
            # every curve starts at 0
            x = np.concatenate([[0], places])
            low, mean, high = (np.concatenate([[0], bound(values, 0)]) for bound in (np.min, np.mean, np.max))
            axes.plot(x, mean, line, color=colour, linewidth=1.8, marker=".", label=_label(row))
            if crowded:
                axes.vlines(x[-1] + aside, low[-1], high[-1], color=colour, linewidth=1.4, linestyle=line)
            else:
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    by_epoch.set_xlabel("epoch")
    by_time.set_xlabel("processor time of training, s")
    by_epoch.set_ylabel("AP, %")
    for axes in (by_epoch, by_time):
        _tidy(axes)
    if shown:
        # below, where no curve is
        lines, labels = by_epoch.get_legend_handles_labels()
        columns = 3 if max(map(len, labels)) <= LONG_LABEL else 2
        place = {"loc": "outside lower center", "ncols": columns}
        figure.legend(lines, labels, frameon=False, fontsize=8, handlelength=3.6, **place)
    return figure


def _label(row: RowRuns) -> str:
    count = len(row.entries)
    return f"{row.row.label} ({count} {'seed' if count == 1 else 'seeds'})"


def _tidy(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


PUBLISHED_SHOWN = {
    "r50_e12": "SAM-DETR-R50",
    "r50_smca_e12": "SAM-DETR-R50 w/ SMCA",
    "r50_dc5_e12": "SAM-DETR-R50-DC5",
    "r50_ms_e12": "SAM-DETR++-R50",
    "r50_ms_smca_e12": "SAM-DETR++-R50 w/ SMCA",
}
"""Of the authors' logs those of 12 epochs."""


def save_published(source: Path, path: Path) -> None:
    """Draws the authors' logs of 12 epochs from a copy of the published curves.

    Raises:
        ValueError: the file has other columns, or lacks a variant.
    """
    from matplotlib.figure import Figure

    curves = read_published(source)
    missing = sorted(set(PUBLISHED_SHOWN) - set(curves))
    if missing:
        raise ValueError(f"{source} lacks the variants {missing}; it has {', '.join(curves)}.")
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for (variant, label), colour in zip(PUBLISHED_SHOWN.items(), COLOURS, strict=False):
        epochs = sorted(curves[variant])
        values = [curves[variant][epoch]["AP"] for epoch in epochs]
        axes.plot([0, *epochs], [0, *values], color=colour, linewidth=1.8, marker=".", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("AP on COCO val2017, published, %")
    _tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, **FIXED)
