"""Numbers of annotation files, as they should be: whatever else stands there is an error that shows it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..annotations import LARGEST_AREA, shown

LARGEST_SIDE = 2**31 - 1
"""Pixels that a set's column of widths or heights holds."""


def box_of(value: Any, where: str) -> list[float]:
    """Four floats, perhaps not finite, of four numbers or texts of numbers.

    >>> box_of([1, "2.5", 3, 4], "image 7")
    [1.0, 2.5, 3.0, 4.0]

    Raises:
        ValueError: it is anything else.
    """
    numbers = value if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) else ()
    if len(numbers) == 4:
        try:
            return [float(number) for number in numbers]
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{where} has the box {shown(value, repr)}, which is not four numbers.")


def side_of(value: Any, name: str, where: str) -> int:
    """A width or height in whole pixels, 0 where it is not known.

    Raises:
        ValueError: it is no number from 0 to `LARGEST_SIDE`.
    """
    try:
        side = int(value)
    except (TypeError, ValueError, OverflowError):
        side = -1
    if not 0 <= side <= LARGEST_SIDE:
        raise ValueError(f"{where} has the {name} {shown(value, repr)}: give its pixels, up to {LARGEST_SIDE}.")
    return side


def area_of(value: Any, where: str) -> float:
    """An object's area in square pixels.

    Raises:
        ValueError: it is no number from 0 on, or beyond that of any picture.
    """
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        area = math.nan
    if not 0 <= area <= LARGEST_AREA:  # so that NaN fails too
        raise ValueError(f"{where} has the area {shown(value, repr)}: give square pixels, or none for the box's own.")
    return area


def crowd_of(value: Any, where: str) -> int:
    """0 for one object, also where nothing is said, or 1 for a crowd region.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return 0
    if not isinstance(value, (bool, int, float, np.generic)) or value not in (0, 1):
        raise ValueError(f"{where} has iscrowd {shown(value, repr)}: give 0 for one object, 1 for a crowd region.")
    return int(value)
