"""Random seeds that follow from the position in a training, so that no state is stored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive_seed", "seed_all", "seeded"]


def derive_seed(*numbers: int) -> int:
    """A seed in [0, 2^32) that depends on all of some numbers in [0, 2^32) and their order."""
    # Without their count, trailing zeros would make no difference.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy, and torch on all devices.

    Unlike :func:`detectron2.utils.env.seed_all_rng` it does not write to the environment, which
    other threads may read in the middle of a training.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy, and torch on the CPU within the context, and restore their states."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
