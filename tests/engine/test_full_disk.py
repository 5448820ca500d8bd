"""Trainings whose OUTPUT_DIR cannot be written, or is full after a while, end in one line."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.engine.hooks import IterationTimer

from ga_detectron2.engine import training_tool
from ga_detectron2.engine.training_tool import Run
from tests.scripts import load_script


@pytest.mark.parametrize(
    ("tool", "key"), [("train_net", "OUTPUT_DIR"), ("lazyconfig_train_net", "train.output_dir")]
)
@pytest.mark.parametrize("folder", ["{place}/file", "{place}/file/below", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_told_first(
    tool: str, key: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    folder = folder.format(place=tmp_path)
    script = load_script(tool)
    monkeypatch.setattr(script, "prepare", lambda _args: Run(None, folder, "cpu", None))
    monkeypatch.setattr(training_tool, "run_processes", lambda *_: pytest.fail("has started"))
    with pytest.raises(SystemExit, match=rf"^{tool}.py: error: {key}: {folder} cannot be written"):
        script.main(["--config-file", "any"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_goes_wrong_in_the_preparation_of_a_process_is_one_line(
    arguments: Callable, tmp_path: Path
) -> None:
    (tmp_path / "output" / "log.txt").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"^train_net.py: error: .*log\.txt'$"):
        load_script("train_net").main(arguments("ga_rpn_R_50"))


@pytest.mark.slow
@pytest.mark.parametrize("saved", [True, False])
def test_a_disk_that_is_full_outside_of_a_checkpoint(
    arguments: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    ended = IterationTimer.after_step

    def after_step(self: IterationTimer) -> None:
        ended(self)
        if self.trainer.iter == 1:
            # What the system says of a file that is open: no name is in it.
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
