"""Training whose OUTPUT_DIR cannot be written, or becomes full, ends in one line."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.engine.hooks import IterationTimer

from tests.scripts import load_script


@pytest.mark.parametrize("folder", ["{place}/file", "{place}/file/below", "/proc/nothing"])
def test_unwritable_output_dir_fails_early(
    arguments: Callable, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    folder = folder.format(place=tmp_path)
    script = load_script("train_net")
    monkeypatch.setattr(script, "run_processes", lambda *_: pytest.fail("has started"))
    message = rf"^train_net.py: error: OUTPUT_DIR: {folder} cannot be written"
    with pytest.raises(SystemExit, match=message):
        script.main(arguments("ga_rpn_R_50", OUTPUT_DIR=folder))
    assert (tmp_path / "file").read_text() == "kept"


def test_unwritable_log_is_reported_in_one_line(arguments: Callable, tmp_path: Path) -> None:
    (tmp_path / "output" / "log.txt").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"^train_net.py: error: .*log\.txt'$"):
        load_script("train_net").main(arguments("ga_rpn_R_50"))


@pytest.mark.slow
@pytest.mark.parametrize("saved", [True, False])
def test_disk_that_becomes_full_outside_of_a_checkpoint(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    ended = IterationTimer.after_step

    def after_step(self: IterationTimer) -> None:
        ended(self)
        if self.trainer.iter == 1:
            # As of a file that is open: the error has no name.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IterationTimer, "after_step", after_step)
    keys = {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 1 if saved else 10}
    with pytest.raises(SystemExit) as stop:
        load_script("train_net").main(arguments("ga_rpn_R_50", **keys))
    last = "The last checkpoint is model_0000000.pth" if saved else "There is no checkpoint yet"
    assert stop.value.code == (
        "train_net.py: error: a file could not be written (No space left on device); "
        f"OUTPUT_DIR is {tmp_path / 'output'}. {last}"
    )
