"""What a run is, to be compared with another: its software, its differences; and its log after a resume."""

import json
import logging
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "transformers-samdetr")

logger = logging.getLogger(__name__)


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
