"""What all tests share: the folder ../shared, threads, and the settings of hypothesis."""

import os
import random
import re
from collections.abc import Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.runs import arguments, config, save_weights, tiny_dataset  # noqa: F401 - fixtures
from tests.small_models import (  # noqa: F401 - fixtures
    detector,
    model_folder,
    plain_detector,
    proposer,
    two_pictures,
)

PROJECT = Path(__file__).resolve().parents[1]
# References and photographs that are not part of the project lie beside it.
SHARED = Path(os.environ.get("GA_DETECTRON2_SHARED", PROJECT.parent / "shared"))
NO_SHARED = f"needs the folder {SHARED} (or GA_DETECTRON2_SHARED to name another)"
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# Skips for want of these must not happen where the folder is there. pytest itself skips a test
# that is parametrized with an empty list, such as the files of a folder that it did not find.
SHARED_IS_WHY = re.compile(r"shared|photograph|coco_tiny|empty parameter set", re.IGNORECASE)

# Examples are the same in every run: what fails has been changed. `--hypothesis-profile random`
# draws others. How long it takes to draw them says nothing but how busy the machine is.
for name, is_fixed in (("fixed", True), ("random", False)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        derandomize=is_fixed,
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("fixed")

# The tensors of most tests are so small that many threads only slow them down.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(os.cpu_count() or 1, 4))))


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder ``shared`` beside the project; a test that asks for it is skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(NO_SHARED)
    return SHARED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Before any fixture, so that chance does not depend on the tests that this process ran before.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if item.get_closest_marker("photographs") and not (SHARED / "data" / "coco_tiny").is_dir():
        pytest.skip(f"photographs: {NO_SHARED}")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip that hides a missing reference in CI, where ../shared is there."""
    # An expected failure (xfail) also counts as skipped, but has no place and reason to show.
    if not (IN_CI and SHARED.is_dir() and report.skipped and isinstance(report.longrepr, tuple)):
        return
    path, line, reason = report.longrepr
    if SHARED_IS_WHY.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: skipped although {SHARED} is there: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse_skip(report)
    return report
