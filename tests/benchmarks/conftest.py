"""The scripts of benchmarks/ as modules, which import each other by their bare names."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def benchmark_module() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script by its name."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Scripts set the number of threads of their process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _narrow_heads(monkeypatch: pytest.MonkeyPatch, benchmark_module) -> None:
    monkeypatch.setattr(benchmark_module("heads"), "CHANNELS", 32)
