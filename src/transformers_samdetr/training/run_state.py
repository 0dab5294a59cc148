"""Where a run stands and what it is, beside its tensors: progress, software, differences to another run, its log."""

import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "transformers-samdetr")

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """Where a run stands: all that decides what comes next, beside tensors.

    Attributes:
        epoch: in progress, counted from 1.
        batch: global batches of this epoch that are done.
        step: optimizer steps that are done.
        best: best value of the metric so far.
        best_step: optimizer steps at the best evaluation.
        patience: evaluations since the best.
        totals: sums over this epoch so far, for its line of the log.
        seconds: of this epoch so far.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_step: int | None = None
    patience: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that differs.

    >>> differences({"recipe": {"seed": 0, "epochs": 12}}, {"recipe": {"seed": 1, "epochs": 12}})
    ['recipe.seed: 0 in the checkpoint, 1 now']
    """
    lines = []
    for key in sorted({*saved, *now}):
        one, other = saved.get(key, "nothing"), now.get(key, "nothing")
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            lines += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            lines.append(f"{prefix}{key}: {one!r} in the checkpoint, {other!r} now")
    return lines


def drop_log_lines(log: Path, epoch: int) -> None:
    """Removes what a log of JSON lines says of `epoch` and later, and a last line that a kill left torn.

    The epochs that are trained again after a resume would otherwise stand in it twice.
    """
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["epoch"] < epoch:
                kept.append(line + "\n")
        except ValueError:
            logger.warning("%s has a torn line, which is dropped: %s", log, line)
    new = log.with_name(f".{log.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    new.replace(log)
