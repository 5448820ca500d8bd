"""A batch of guided anchors, an image, and the scripts of tools/."""

import functools
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors
from tests.scripts import load_script

from .batch import SIZES, make_guided


@pytest.fixture
def guided() -> GuidedAnchors:
    """Of a batch of two images with random logits and shapes."""
    generator = torch.Generator().manual_seed(3)
    cells = sum(h * w for h, w in SIZES)
    return make_guided(
        torch.randn(2, cells, generator=generator) * 2 - 2,
        torch.randn(2, cells, 2, generator=generator) * 0.5,
    )


@pytest.fixture
def image() -> np.ndarray:
    """(100, 140, 3): the second image of the batch before it was resized."""
    return np.random.default_rng(5).integers(0, 256, (100, 140, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], ModuleType]:
    """Imports a script of tools/ by its name, once."""
    return functools.cache(load_script)
