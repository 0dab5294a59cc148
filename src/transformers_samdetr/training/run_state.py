"""What a run is, to be compared with another: its software, and the differences."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from .recipes import Recipe

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "timm", "transformers-samdetr")


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


def comparable(now: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for `now` as JSON has it, without fields of its recipe that are new since and at their default."""
    known, defaults = saved.get("recipe", {}), asdict(Recipe())
    recipe = {
        name: value
        for name, value in now.get("recipe", {}).items()
        if name in known or value != defaults.get(name, value)
    }
    return json.loads(json.dumps({**now, "recipe": recipe} if "recipe" in now else {**now}))
