"""Random numbers that depend on (seed, epoch, index) alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def example_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of one example of one epoch, in [0, 2^63).

    >>> example_seed(0, 1, 2) == example_seed(0, 1, 2), example_seed(0, 1, 2) == example_seed(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's random numbers on the CPU start from `seed` within, and go on as before after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the accelerators' generators alone
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def random_integer(lowest: int, highest: int) -> int:
    """Of PyTorch's generator, both ends included."""
    return int(torch.randint(lowest, highest + 1, ()))
