"""Which runs a suite needs, given the ledger: all variants with the first seed, then all with the others."""

from collections.abc import Iterator, Sequence
from typing import Any

from .ledger import Ledger
from .runs import Run
from .settings import SEEDS, SETTINGS, Setting
from .suites import Suite


def plan(
    suite: Suite, ledger: Ledger, seeds: Sequence[int] = SEEDS, variants: Sequence[str] | None = None
) -> list[Run]:
    """The runs of a suite in the order in which they are best made, finished ones among them.

    Of several learning rates each is run with the first seed; the other seeds take the best, and so are planned once
    all of those are finished.

    Args:
        suite: gives rows and settings.
        ledger: tells the best learning rates.
        seeds: of all variants, so that runs are pairs.
        variants: those to keep; all by default.

    Raises:
        ValueError: a variant is none of the suite's.
    """
    known = list(dict.fromkeys(row.variant for row in suite.rows))
    for name in variants or ():
        if name not in known:
            raise ValueError(f"{name!r} is no variant of the suite {suite.name!r}, which has {', '.join(known)}.")
    kept = [name for name in known if variants is None or name in variants]
    runs: dict[Run, None] = {}
    for seed in seeds:
        for setting in (SETTINGS[name] for name in suite.settings):
            for variant in kept:
                for run in _runs(setting, variant, seed, seeds[0], ledger):
                    runs.update(dict.fromkeys([run.needs] if run.needs else []))
                    runs[run] = None
    return list(runs)


def _runs(setting: Setting, variant: str, seed: int, first_seed: int, ledger: Ledger) -> Iterator[Run]:
    if seed == first_seed:
        yield from (Run(setting.name, variant, rate, seed) for rate in setting.learning_rates)
    else:
        rate = best_learning_rate(setting, variant, first_seed, ledger)
        if rate is not None:
            yield Run(setting.name, variant, rate, seed)


def best_learning_rate(setting: Setting, variant: str, seed: int, ledger: Ledger) -> float | None:
    """That of the highest AP after the last epoch with this seed; None while one of them is not finished."""
    if len(setting.learning_rates) == 1:
        return setting.learning_rates[0]
    entries = [ledger.read(Run(setting.name, variant, rate, seed)) for rate in setting.learning_rates]
    if None in entries:
        return None
    last = [last_ap(entry) for entry in entries]
    return setting.learning_rates[last.index(max(last))]


def last_ap(entry: dict[str, Any], metric: str = "AP") -> float:
    """The metric after the last epoch, in percent."""
    return entry["epochs"][-1][metric]
