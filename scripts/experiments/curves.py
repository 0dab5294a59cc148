"""AP curves as pictures, and the authors' published logs: drawn, or compared with a log of ours term by term."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.performance_page import table
from transformers_samdetr.training.log import COLUMNS, read_log

from .results import Comparison, RowRuns

TERMS = tuple(name for name in COLUMNS if "loss" in name)
"""Losses with their coefficients: the sum of all layers, the last layer's terms, and the sum in evaluation."""


@dataclass(frozen=True)
class TermComparison:
    """One number of both logs.

    Attributes:
        name: a column of the logs.
        ours: its value in our log.
        published: its value in the authors'.
    """

    name: str
    ours: float
    published: float

    @property
    def deviation(self) -> float:
        """By what share of the published value ours is higher."""
        return self.ours / self.published - 1


def read_published(path: Path) -> dict[str, dict[int, dict[str, float]]]:
    """The published curves by variant and epoch, numbers by column.

    Args:
        path: a CSV file with the columns of our own log.

    Raises:
        ValueError: it has other columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}; the published curves have {list(COLUMNS)}.")
        curves: dict[str, dict[int, dict[str, float]]] = {}
        for row in reader:
            numbers = {name: float(value) for name, value in row.items() if name != "variant"}
            curves.setdefault(row["variant"], {})[int(row["epoch"])] = numbers
    return curves


def compare_epoch(log: Path, published: Path, variant: str, epoch: int = 1) -> list[TermComparison]:
    """The losses of an epoch of `log.jsonl` and of the published run of `variant`.

    Raises:
        ValueError: there is no such variant, or one of the two logs lacks the epoch.
    """
    curves = read_published(published)
    if variant not in curves:
        raise ValueError(f"variant={variant!r} is none of the published ones: {', '.join(curves)}.")
    lines: dict[int, Mapping] = {line["epoch"]: line for line in read_log(log)}
    for place, epochs in ((log, lines), (f"{variant} in {published}", curves[variant])):
        if epoch not in epochs:
            raise ValueError(f"epoch={epoch} is not in {place}, which has {sorted(epochs)}.")
    return [TermComparison(name, lines[epoch][name], curves[variant][epoch][name]) for name in TERMS]


def comparison_table(rows: list[TermComparison]) -> str:
    """A Markdown table of the comparison."""
    body = [[row.name, f"{row.ours:.4f}", f"{row.published:.4f}", f"{row.deviation:+.1%}"] for row in rows]
    return table(["term", "ours", "published", "deviation"], body)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F3C8D", "#999999")
"""Distinct with most kinds of colour vision."""
BANDS = 8
"""Up to this number of curves each has a band over all epochs; more would hide each other."""
LONG_LABEL = 56
"""Length of the longest label with which a legend has three columns."""
FIXED = {"dpi": 110, "metadata": {"Software": None}}
"""Makes the bytes of a picture independent of version and date."""


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
