"""Checkpoints are complete or absent, and training resumes from the newest one that can be read."""

import datetime
import logging
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ga_detectron2 import atomic
from ga_detectron2.checkpoint import GACheckpointer, checkpointer
from ga_detectron2.errors import CheckpointError


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Warnings of the logger of fvcore's checkpointer."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("fvcore.common.checkpoint"), Keep(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


class Training:
    """A model of a few hundred kB, saved with the number of the iteration as its weights."""

    def __init__(self, folder: Path):
        self.model = torch.nn.Linear(300, 300)
        self.checkpointer = GACheckpointer(self.model, str(folder))

    def save(self, iteration: int) -> None:
        torch.nn.init.constant_(self.model.weight, iteration)
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)

    def resume(self) -> int:
        """Return the iteration that was found, after a check of the weights."""
        found = self.checkpointer.resume_or_load("", resume=True).get("iteration", -1)
        if found >= 0:
            assert self.model.weight.unique().tolist() == [found]
        return found


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_last_checkpoint_is_resumed_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    assert training.resume() == -1
    for iteration in (1, 3, 5):
        training.save(iteration)
    read, paths = checkpointer.read_checkpoint, []
    monkeypatch.setattr(checkpointer, "read_checkpoint", lambda p: paths.append(p) or read(p))
    assert Training(tmp_path).resume() == 5
    assert paths == [str(tmp_path / "model_0000005.pth")]
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint", "model_0000001.pth", "model_0000003.pth", "model_0000005.pth"
    ]  # fmt: skip
    # One that was written, but not yet named as the last.
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    assert Training(tmp_path).resume() == 3


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, warnings: list[str], damage: Callable
) -> None:
    training = Training(tmp_path)
    for iteration in (1, 3, 5):
        training.save(iteration)
    # Of an earlier and longer training in this folder.
    (tmp_path / "model_0000099.pth").write_bytes(b"")
    damage(tmp_path / "model_0000005.pth")
    assert Training(tmp_path).resume() == 3
    assert "model_0000005.pth" in warnings[0]
    assert "model_0000003.pth" in warnings[1]
    assert len(warnings) == 2


def test_without_a_readable_checkpoint_resuming_fails(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1)
    training.save(3)
    truncate(tmp_path / "model_0000003.pth")
    truncate(tmp_path / "model_0000001.pth")
    message = r"no checkpoint can be read .*0000003.pth: .*0000001.pth: damaged.* OUTPUT_DIR"
    with pytest.raises(CheckpointError, match=message):
        training.resume()


# Bytes that are not text, zeros of a crashed machine, and no name at all.
@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0" * 18, b""])
def test_damaged_last_checkpoint_file(tmp_path: Path, warnings: list[str], content: bytes) -> None:
    training = Training(tmp_path)
    training.save(1)
    training.save(3)
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert training.checkpointer.get_checkpoint_file() == f"{tmp_path}{os.sep}"
    assert training.checkpointer.find_last() == str(tmp_path / "model_0000003.pth")
    warnings.clear()
    assert Training(tmp_path).resume() == 3
    assert len(warnings) == 1
    assert f"{tmp_path / 'last_checkpoint'} is empty or damaged" in warnings[0]


def test_final_model_is_found_without_last_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path)
    torch.nn.init.constant_(training.model.weight, 7)
    training.checkpointer.save("model_final", iteration=7)
    empty(tmp_path / "last_checkpoint")
    assert Training(tmp_path).resume() == 7
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read .*there is none"):
        Training(tmp_path).resume()


@pytest.mark.parametrize("room", [1000, 100_000])
def test_full_disk_leaves_the_checkpoint_before(tmp_path: Path, room: int) -> None:
    training = Training(tmp_path)
    training.save(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # bytes in a file
    try:
        with pytest.raises(
            CheckpointError,
            match=r"model_0000003.pth: cannot be written \(File too large\). "
            r"The last checkpoint is model_0000001.pth$",
        ):
            training.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert training.resume() == 1
    training.save(3)
    assert training.resume() == 3


def test_unfinished_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1)
    (tmp_path / f"model_0000003.pth{atomic.UNFINISHED}").write_bytes(b"half")
    assert training.resume() == 1
    training.save(3)
    assert not list(tmp_path.glob(f"*{atomic.UNFINISHED}"))


class Hook:
    """Something with a state, as a user's hook."""

    def __init__(self, state: Any):
        self.state = state

    def state_dict(self) -> dict:
        return {"hook": self.state}

    def load_state_dict(self, state: dict) -> None:
        self.state = state["hook"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (np.float64(0.5), 0.5),
        ([np.int64(3), (np.bool_(True), {np.int32(1): np.float32(0.25)})], [3, (True, {1: 0.25})]),
        ({"best": torch.ones(2), "at": None}, {"best": torch.ones(2), "at": None}),
    ],
)
def test_numpy_numbers_in_a_state(tmp_path: Path, state: Any, expected: Any) -> None:
    model = torch.nn.Linear(1, 1)
    GACheckpointer(model, str(tmp_path), trainer=Hook(state)).save("a")
    hook = Hook(None)
    GACheckpointer(model, str(tmp_path), trainer=hook).resume_or_load("", resume=True)
    assert str(hook.state) == str(expected)
    assert type(hook.state) is type(expected)
    # Also for detectron2's own checkpointer, which loads with weights_only from torch 2.6.
    torch.load(tmp_path / "a.pth", weights_only=True)


def test_state_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    hook = Hook(datetime.date(2020, 2, 20))
    message = r"a\.pth: not written.* 'trainer' holds a 'datetime\.date'.*save tensors and plain"
    with pytest.raises(CheckpointError, match=message):
        GACheckpointer(torch.nn.Linear(1, 1), str(tmp_path), trainer=hook).save("a")
    assert os.listdir(tmp_path) == []
