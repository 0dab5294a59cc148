"""How fast a run has learned, read off its AP after each epoch."""

from collections.abc import Sequence


def area_under_curve(
    values: Sequence[float], positions: Sequence[float] | None = None, end: float | None = None
) -> float:
    """Mean height of a curve that starts at 0, by the trapezoidal rule: in the unit of its values.

    >>> area_under_curve([10.0, 20.0])
    10.0
    >>> area_under_curve([10.0, 20.0], positions=[2.0, 4.0], end=3.0)
    7.5

    Args:
        values: AP after each epoch.
        positions: where they were reached, rising from above 0, such as seconds of training; epochs by default.
        end: the mean is taken up to here, at most the last position (the default); curves of models whose epochs take
            different times are compared up to the time that all of them have reached.

    Raises:
        ValueError: there are no values, positions do not rise or do not fit the values, or `end` is outside.
    """
    positions = [float(n + 1) for n in range(len(values))] if positions is None else positions
    end = positions[-1] if end is None and positions else end
    if not values or len(values) != len(positions):
        raise ValueError(f"{len(values)} values at {len(positions)} positions are no curve: give one value a position.")
    if any(right <= left for left, right in zip([0.0, *positions], positions, strict=False)):
        raise ValueError(f"positions={list(positions)} must rise, from above 0.")
    if not 0 < end <= positions[-1]:
        raise ValueError(f"end={end} must lie within the curve, above 0 and at most {positions[-1]}.")
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
    """Where a curve from 0 first reaches a level, between two epochs by a straight line; None if it never does.

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
        raise ValueError(f"level={level} must be above 0, where every curve starts.")
    positions = [float(n + 1) for n in range(len(values))] if positions is None else positions
    x, y = 0.0, 0.0
    for position, value in zip(positions, values, strict=True):
        if value >= level:
            return x + (position - x) * (level - y) / (value - y)
        x, y = position, value
    return None
