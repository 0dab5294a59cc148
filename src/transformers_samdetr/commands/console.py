"""The console commands of an installed package, `samdetr-train`, `samdetr-predict`, …: `main` of the command's file."""

from collections.abc import Callable
from importlib import import_module


def __getattr__(command: str) -> Callable[[], int | None]:
    if command.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {command!r}")
    return import_module(f".{command}", __package__).main
