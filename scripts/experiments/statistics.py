"""What a few seeds say: means with confidence intervals, and differences of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


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
    """The mean of independent values, with its interval of 95 %.

    >>> round(estimate([1.0, 2.0, 3.0]).half_width, 3)  # 4.303 * 1 / sqrt(3)
    2.484

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("No values have no mean: give one at least.")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * stats.sem(array))
    return Estimate(mean, mean - half, mean + half, len(array))


def paired_difference(ours: dict[int, float], others: dict[int, float]) -> Estimate | None:
    """The mean of ours minus others over the seeds that both have; None where there is none.

    >>> paired_difference({0: 5.0, 1: 6.0}, {1: 4.0, 2: 9.0}).mean
    2.0
    """
    seeds = sorted(ours.keys() & others.keys())
    return estimate([ours[seed] - others[seed] for seed in seeds]) if seeds else None
