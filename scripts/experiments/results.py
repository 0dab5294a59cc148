"""What the ledger says of a suite: AP curves, their areas, means over seeds with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from scipy import stats

from .definitions import Row, Setting, Suite
from .runs import Ledger, Run, best_learning_rate, last_ap
from .timing import TrainingCost, training_costs


def area_under_curve(
    values: Sequence[float], positions: Sequence[float] | None = None, end: float | None = None
) -> float:
    """Mean height of a curve that starts at (0, 0), by the trapezoidal rule, in the unit of its values.

    >>> area_under_curve([10.0, 20.0])
    10.0
    >>> area_under_curve([10.0, 20.0], positions=[2.0, 4.0], end=3.0)
    7.5

    Args:
        values: AP after each epoch.
        positions: of the values, such as seconds of training, increasing and above 0; epochs by default.
        end: the mean is taken up to here; by default the last position. Models whose epochs take different times are
            compared up to the time that all have reached.

    Raises:
        ValueError: there are no values, positions do not rise or do not fit the values, or `end` is outside.
    """
    positions = [float(n + 1) for n in range(len(values))] if positions is None else positions
    end = positions[-1] if end is None and positions else end
    if not values or len(values) != len(positions):
        raise ValueError(f"{len(values)} values at {len(positions)} positions must be as many, and at least one.")
    if any(right <= left for left, right in zip([0.0, *positions], positions, strict=False)):
        raise ValueError(f"positions={list(positions)} must be above 0 and increase.")
    if not 0 < end <= positions[-1]:
        raise ValueError(f"end={end} must be above 0 and at most {positions[-1]}.")
    area, (x, y) = 0.0, (0.0, 0.0)
    for position, value in zip(positions, values, strict=True):
        right = min(position, end)
        height = y + (value - y) * (right - x) / (position - x)
        area += (right - x) * (y + height) / 2
        if position >= end:
            break
        x, y = position, value
    return area / end


def first_reaching(values: Sequence[float], level: float, positions: Sequence[float] | None = None) -> float | None:
    """The position at which a curve from (0, 0) first reaches a level, linearly interpolated; None if it never does.

    >>> first_reaching([10.0, 20.0], 15.0), first_reaching([10.0, 20.0], 5.0), first_reaching([10.0], 50.0)
    (1.5, 0.5, None)

    Args:
        values: AP after each epoch.
        level: above 0.
        positions: as in `area_under_curve`; epochs by default.

    Raises:
        ValueError: the level is not above 0.
    """
    if level <= 0:
        raise ValueError(f"level={level} must be above 0: every curve starts at 0.")
    positions = [float(n + 1) for n in range(len(values))] if positions is None else positions
    x, y = 0.0, 0.0
    for position, value in zip(positions, values, strict=True):
        if value >= level:
            return x + (position - x) * (level - y) / (value - y)
        x, y = position, value
    return None


CONFIDENCE = 0.95
NO_VALUE = "–"
"""In place of a number in a table."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        low, high: ends of the confidence interval by Student's t; None for a single value.
        count: of the values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def half_width(self) -> float | None:
        """Half of the interval's width."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values with its 95 % confidence interval.

    >>> round(estimate([1.0, 2.0, 3.0]).half_width, 3)  # 4.303 * 1 / sqrt(3)
    2.484

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("values=[] has no mean: give at least one value.")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * stats.sem(array))
    return Estimate(mean, mean - half, mean + half, len(array))


def interval(found: Estimate | None, digits: int = 1, sign: bool = False) -> str:
    """`12.3 ± 1.5`, the interval's half width; of a single run no interval."""
    if found is None:
        return NO_VALUE
    number = f"{found.mean:{'+' if sign else ''}.{digits}f}"
    return number if found.half_width is None else f"{number} ± {found.half_width:.{digits}f}"


def paired_difference(ours: dict[int, float], others: dict[int, float]) -> Estimate | None:
    """The mean difference, ours minus others, over the seeds that both have; None without such a seed.

    >>> paired_difference({0: 5.0, 1: 6.0}, {1: 4.0, 2: 9.0}).mean
    2.0
    """
    seeds = sorted(ours.keys() & others.keys())
    return estimate([ours[seed] - others[seed] for seed in seeds]) if seeds else None


Entry = dict[str, Any]
NEARLY_THERE = 0.9
"""Detectors are compared by the first epoch with this share of the best final AP."""


@dataclass(frozen=True)
class RowRuns:
    """The finished runs of a row.

    Attributes:
        row: of the suite.
        entries: of the ledger by seed, all with the same learning rate.
        tried: AP after the last epoch with the first seed, by learning rate, as far as they are finished.
        cost: measured in turn with all other rows of the comparison; None if any of them was not measured.
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
        """Seconds of processor time of training up to the end of each epoch: by `cost`, or the run's own."""
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
        """Whether times are of steps that were measured in turn, not of the runs."""
        return any(row.cost for row in self.measured)

    @property
    def common_time(self) -> float | None:
        """Training time in seconds that every finished run has reached; None without runs."""
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
