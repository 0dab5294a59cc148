"""What the ledger says of the rows of a suite in one setting: runs by seed, and the numbers that are compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from .convergence import area_under_curve, first_reaching
from .ledger import Ledger
from .plan import best_learning_rate, last_ap
from .runs import Run
from .settings import Setting
from .suites import Row, Suite
from .training_cost import TrainingCost, training_costs

Entry = dict[str, Any]
NEARLY_THERE = 0.9
"""The share of the best final AP whose first epoch is compared."""


@dataclass(frozen=True)
class RowRuns:
    """The finished runs of a row.

    Attributes:
        row: of the suite.
        entries: of the ledger by seed, all with the same learning rate.
        tried: AP after the last epoch with the first seed, by learning rate, as far as they are finished.
        cost: measured in turn with all other rows of the comparison; None where that was not done for each of them.
    """

    row: Row
    entries: dict[int, Entry]
    tried: dict[float, float]
    cost: TrainingCost | None = None

    def final(self, metric: str = "AP") -> dict[int, float]:
        """The metric after the last epoch by seed, in percent."""
        return {seed: last_ap(entry, metric) for seed, entry in self.entries.items()}

    def curve(self, seed: int) -> list[float]:
        """AP after each epoch."""
        return [epoch["AP"] for epoch in self.entries[seed]["epochs"]]

    def clock(self, seed: int) -> list[float]:
        """Seconds of processor time that training takes up to the end of each epoch: by `cost`, or the run's own."""
        own = [epoch["cpu_seconds"] for epoch in self.entries[seed]["epochs"]]
        return list(accumulate(own if self.cost is None else [self.cost.seconds] * len(own)))

    @property
    def multiply_adds(self) -> int:
        """Of a forward of one picture: by `cost`, or what a run has counted."""
        return next(iter(self.entries.values()))["multiply_adds"] if self.cost is None else self.cost.multiply_adds

    def area_by_epoch(self) -> dict[int, float]:
        """Mean AP over the epochs, by seed."""
        return {seed: area_under_curve(self.curve(seed)) for seed in self.entries}

    def area_by_time(self, end: float) -> dict[int, float]:
        """Mean AP over the first `end` seconds of training, by seed."""
        return {seed: area_under_curve(self.curve(seed), self.clock(seed), end) for seed in self.entries}

    def epochs_to(self, level: float) -> dict[int, float | None]:
        """The first epoch with this AP by seed, None where it is not reached."""
        return {seed: first_reaching(self.curve(seed), level) for seed in self.entries}


def nearly_best(rows: Sequence[RowRuns]) -> float | None:
    """90 % of the highest mean final AP; None without runs, or where nothing was learned.

    Args:
        rows: each with at least one finished run.
    """
    best = max((sum(row.final().values()) / len(row.entries) for row in rows), default=0.0)
    return NEARLY_THERE * best if best > 0 else None


@dataclass(frozen=True)
class Comparison:
    """A suite in one setting.

    Attributes:
        suite: gives the rows.
        setting: in which they were run.
        rows: of the suite in its order, those without runs among them.
    """

    suite: Suite
    setting: Setting
    rows: tuple[RowRuns, ...]

    @property
    def measured(self) -> list[RowRuns]:
        """Rows with at least one finished run."""
        return [row for row in self.rows if row.entries]

    @property
    def timed_in_turn(self) -> bool:
        """Whether times are those of steps that were measured in turn, and not those of the runs."""
        return any(row.cost for row in self.measured)

    @property
    def common_time(self) -> float | None:
        """Seconds of training that every finished run has reached; None without runs."""
        ends = [row.clock(seed)[-1] for row in self.measured for seed in row.entries]
        return min(ends, default=None)

    @property
    def nearly_best(self) -> float | None:
        """See `nearly_best`, of all rows."""
        return nearly_best(self.measured)

    def of(self, variant: str) -> RowRuns | None:
        """The row of a variant."""
        return next((row for row in self.rows if row.row.variant == variant), None)


def compare(suite: Suite, setting: Setting, ledger: Ledger) -> Comparison:
    """Reads the runs of a suite in a setting, of every seed that is in the ledger, and what training costs."""
    rows, costs = [_row_runs(row, setting, ledger) for row in suite.rows], training_costs(setting, ledger)
    if all(row.row.variant in costs for row in rows if row.entries):  # two clocks cannot be compared
        rows = [replace(row, cost=costs.get(row.row.variant)) for row in rows]
    return Comparison(suite, setting, tuple(rows))


def _row_runs(row: Row, setting: Setting, ledger: Ledger) -> RowRuns:
    """Learning rates are those that were tried with the lowest seed, as planned."""
    seeds = ledger.seeds(setting.name, row.variant)
    if not seeds:
        return RowRuns(row, {}, {})
    first = {rate: ledger.read(Run(setting.name, row.variant, rate, seeds[0])) for rate in setting.learning_rates}
    tried = {rate: last_ap(entry) for rate, entry in first.items() if entry is not None}
    rate = best_learning_rate(setting, row.variant, seeds[0], ledger)
    if rate is None:
        return RowRuns(row, {}, tried)
    found = {seed: ledger.read(Run(setting.name, row.variant, rate, seed)) for seed in seeds}
    return RowRuns(row, {seed: entry for seed, entry in found.items() if entry is not None}, tried)
