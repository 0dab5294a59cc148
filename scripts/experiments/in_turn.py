"""Times things in turn, so that what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Does each action once a round.

    Args:
        actions: by name.
        rounds: that count.
        warm_up: rounds before them, which do not.
        clock: gives seconds; `time.process_time` leaves out what other processes took.

    Returns:
        The median of each, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + rounds):
        for name, action in actions.items():
            begin = clock()
            action()
            if turn >= warm_up:
                seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}
