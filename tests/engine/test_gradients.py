"""Gradients of three processes are added in the same order after a restart."""

from pathlib import Path

import pytest

from tests.engine.jobs import finish, start


@pytest.mark.slow
def test_restart_does_not_change_the_rounding_of_gradients() -> None:
    script = Path(__file__).with_name("resumed_gradients.py")
    assert finish(start([script]))[0].split("\n")[:2] == ["the mean", "the same"]
