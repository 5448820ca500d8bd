import datetime
import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ga_detectron2.checkpoint.files import read_checkpoint_file
from ga_detectron2.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(3000.0), "a.bias": torch.ones(2)}


def save(path, content, **kwargs):
    torch.save(content, path, **kwargs)
    return str(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {"model": TENSORS, "iteration": 7},
        {"state_dict": TENSORS, "meta": {"mmdet_version": "2.0.0"}, "optimizer": {"state": {}}},
    ],
    ids=["tensors", "ordered", "detectron2", "mmdetection"],
)
def test_files_of_torch(tmp_path, content, zipped):
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint_file(path)
    assert found["model"].keys() == TENSORS.keys()
    assert all(torch.equal(found["model"][k], v) for k, v in TENSORS.items())
    assert "matching_heuristics" not in found
    assert found.get("iteration") == content.get("iteration")


def test_file_of_pycls(tmp_path):
    state = TENSORS | {"bn.num_batches_tracked": torch.tensor(1)}
    found = read_checkpoint_file(save(tmp_path / "a.pyth", {"model_state": state, "epoch": 1}))
    assert found["model"].keys() == TENSORS.keys()
    assert found["matching_heuristics"] is True


def test_pickles_of_detectron2_and_detectron(tmp_path):
    arrays = {"conv1_w": np.ones(3), "conv1_w_momentum": np.ones(3)}
    path = tmp_path / "a.pkl"
    ours = {"model": arrays, "__author__": "x", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(ours))
    assert read_checkpoint_file(str(path)).keys() == ours.keys()
    for content in (arrays, {"blobs": arrays, "cfg": "..."}):
        path.write_bytes(pickle.dumps(content, 2))
        found = read_checkpoint_file(str(path))
        assert list(found["model"]) == ["conv1_w"]
        assert found["__author__"] == "Caffe2"
        assert found["matching_heuristics"] is True


def as_bytes(content, **kwargs):
    buffer = io.BytesIO()
    torch.save(content, buffer, **kwargs)
    return buffer.getvalue()


ZIPPED = as_bytes(TENSORS)
OLD = as_bytes(TENSORS, _use_new_zipfile_serialization=False)
FLIPPED = bytearray(ZIPPED)
FLIPPED[ZIPPED.index(TENSORS["a.weight"].numpy().tobytes()) + 5000] ^= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (ZIPPED[: len(ZIPPED) // 2], "damaged or truncated"),
        (ZIPPED[:-1], "damaged or truncated"),
        (bytes(FLIPPED), "damaged .*checksum"),
        (OLD[: len(OLD) // 2], "damaged or truncated"),
        (OLD[:60], "damaged or truncated"),
        (b"PK\x03\x04 and no more", "damaged or truncated"),
        (b"\x80\x02 and no more", "damaged, truncated"),
        (b"<!DOCTYPE html><html>404</html>", "neither a file of torch.save nor a pickle"),
        (b"\x89PNG\r\n\x1a\n", "neither a file of torch.save nor a pickle"),
        (as_bytes([torch.ones(1)]), "holds a list, not a dictionary"),
        (pickle.dumps([1, 2], 2), "holds a list, not a dictionary"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, data, message):
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as e:
        read_checkpoint_file(str(path))
    assert "\n" not in str(e.value)


def test_zip_of_something_else(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_checkpoint_file(str(path))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_executes_nothing(tmp_path, zipped):
    content = {"state_dict": TENSORS, "meta": {"time": datetime.datetime.now()}}
    path = save(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds a 'datetime.datetime' .*executed") as e:
        read_checkpoint_file(path)
    # torch's own message tells how to execute what the file asks for.
    assert "weights_only" not in str(e.value)
    assert "\n" not in str(e.value)


class WritesAFile(torch.nn.Module):
    """A program that writes a file when it is loaded."""

    def __init__(self, file: str):
        super().__init__()
        self.file = file

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.file, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.file = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), state[0])


def test_programs_are_not_run(tmp_path):
    written = tmp_path / "written"
    path = str(tmp_path / "a.pth")
    torch.jit.script(WritesAFile(str(written))).save(path)
    with pytest.raises(CheckpointError, match=r"program of TorchScript.*nothing .*executed"):
        read_checkpoint_file(path)
    assert not written.exists()
    torch.jit.load(path)
    assert written.exists(), "the program does nothing"


def test_tar_files_of_torch_are_not_unpacked(tmp_path):
    path = tmp_path / "a.pth"
    name = OLD[:15].decode("utf-8", "surrogateescape")  # looks like another old file of torch
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
        archive.addfile(tarfile.TarInfo("storages"))
    assert path.read_bytes().startswith(OLD[:15])
    with pytest.raises(CheckpointError, match=r"tar file of torch 0\.1"):
        read_checkpoint_file(str(path))
