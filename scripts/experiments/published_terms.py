"""An epoch of our log beside the same epoch of the authors' published logs, term by term."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import table
from transformers_samdetr.training.epoch_log import COLUMNS, read_log

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
