"""Checkpoints are whole or not there, and a damaged one is not the end."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ga_detectron2 import atomic
from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.errors import CheckpointError


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Warnings of the logger that fvcore's checkpointer writes to."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("fvcore.common.checkpoint"), Keep(logging.WARNING)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


class Training:
    """A model of a few hundred kB with a checkpoint every two iterations."""

    def __init__(self, folder: Path):
        self.model = torch.nn.Linear(300, 300)
        self.checkpointer = GACheckpointer(self.model, str(folder))

    def save(self, iteration: int) -> None:
        torch.nn.init.constant_(self.model.weight, iteration)
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)

    def resume(self) -> int:
        """The iteration that was found, which the weights belong to."""
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


def test_the_last_one_is_resumed(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training.resume() == -1
    for iteration in (1, 3, 5):
        training.save(iteration)
    assert Training(tmp_path).resume() == 5
    assert sorted(os.listdir(tmp_path)) == [
        "last_checkpoint", "model_0000001.pth", "model_0000003.pth", "model_0000005.pth"
    ]  # fmt: skip
    # One that was written, but not yet named as the last.
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    assert Training(tmp_path).resume() == 3


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_a_damaged_one_falls_back_to_the_one_before(
    tmp_path: Path, heard: list[str], damage: Callable
) -> None:
    training = Training(tmp_path)
    for iteration in (1, 3, 5):
        training.save(iteration)
    # Of an earlier and longer training in this folder.
    (tmp_path / "model_0000099.pth").write_bytes(b"")
    damage(tmp_path / "model_0000005.pth")
    assert Training(tmp_path).resume() == 3
    assert "model_0000005.pth" in heard[0]
    assert "model_0000003.pth" in heard[1]
    assert len(heard) == 2


def test_without_a_good_one_nothing_is_trained(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1)
    training.save(3)
    empty(tmp_path / "last_checkpoint")
    assert Training(tmp_path).resume() == 3
    truncate(tmp_path / "model_0000003.pth")
    truncate(tmp_path / "model_0000001.pth")
    with pytest.raises(
        CheckpointError, match=r"no checkpoint can be read .*0000003.pth: .*0000001.pth: damaged"
    ):
        training.resume()


# Bytes that are no text, zeros of a machine that failed, and no name at all.
NO_NAMES = (b"\xff\xfe", b"\0" * 18, b"a/\0", b"\n")


@pytest.mark.parametrize("content", NO_NAMES)
def test_a_damaged_name_of_the_last_one_is_like_none(
    tmp_path: Path, heard: list[str], content: bytes
) -> None:
    training = Training(tmp_path)
    training.save(1)
    training.save(3)
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert training.checkpointer.get_checkpoint_file() == f"{tmp_path}{os.sep}"
    assert Training(tmp_path).resume() == 3
    assert len(heard) == 1
    assert f"{tmp_path / 'last_checkpoint'} is empty or damaged" in heard[0]


def test_without_its_name_the_final_one_is_found(tmp_path: Path) -> None:
    training = Training(tmp_path)
    torch.nn.init.constant_(training.model.weight, 7)
    training.checkpointer.save("model_final", iteration=7)
    empty(tmp_path / "last_checkpoint")
    assert Training(tmp_path).resume() == 7
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read .*there is none"):
        Training(tmp_path).resume()


class FullDisk:
    """Opens files on a disk with a little room."""

    def __init__(self, room: int):
        self.room = room

    def __call__(self, path: str, mode: str) -> "FullDisk":
        self.file = Path(path).open(mode)  # noqa: SIM115 - closed below
        return self

    def write(self, content: bytes) -> int:
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 1000, 100_000, 300_000])
def test_a_full_disk_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    training = Training(tmp_path)
    training.save(1)
    monkeypatch.setattr(atomic, "open", FullDisk(room), raising=False)
    with pytest.raises(
        CheckpointError,
        match=r"model_0000003.pth: cannot be written \(No space left on device\). "
        r"The last checkpoint is model_0000001.pth$",
    ):
        training.save(3)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert training.resume() == 1
    training.save(3)
    assert training.resume() == 3


def test_what_a_kill_leaves_is_replaced(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1)
    (tmp_path / f"model_0000003.pth{atomic.UNFINISHED}").write_bytes(b"half")
    assert training.resume() == 1
    training.save(3)
    assert not list(tmp_path.glob(f"*{atomic.UNFINISHED}"))
