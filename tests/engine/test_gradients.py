"""Gradients of three processes are added in one order, also after a new start."""

from pathlib import Path

import pytest

from tests.engine.jobs import finish, start


@pytest.mark.slow
def test_a_new_start_does_not_change_how_gradients_are_rounded() -> None:
    script = Path(__file__).with_name("resumed_gradients.py")
    assert finish(start([script]))[0].split("\n")[:2] == ["the mean", "the same"]
