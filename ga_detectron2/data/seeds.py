"""Random numbers that follow from where a training stands, so that nobody need store generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive_seed", "seed_all", "seeded"]


def derive_seed(*numbers: int) -> int:
    """A seed, from 0 to 2^32 - 1, that follows from all of some numbers and their order.

    Args:
        numbers: from 0 to 2^32 - 1.
    """
    # Without their count, zeros at the end would make no difference.
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed the generators of Python, numpy, and torch on all devices.

    As :func:`detectron2.utils.env.seed_all_rng`, but it leaves the environment alone: that must not
    be written in every iteration, while other threads may read it.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, numpy, and torch on the CPU for a while, and then put them back."""
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
