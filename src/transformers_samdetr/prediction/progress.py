"""A line that moves while pictures are read."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int | None, description: str = "Detecting") -> Iterator[Item]:
    """The items, counted on stderr by rich where it is installed, otherwise by tqdm, which Transformers brings.

    Args:
        items: passed through.
        total: how many there will be, or None where that is not known.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=description, unit="picture")
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=description)
