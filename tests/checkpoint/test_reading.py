"""Files of weights are read without executing anything in them, or refused in one line."""

import datetime
import io
import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ga_detectron2.checkpoint.reading import _TAKES_NAMES, read_checkpoint
from ga_detectron2.checkpoint.safe_pickle import load_numpy_pickle
from ga_detectron2.errors import CheckpointError

TENSORS = {"a.weight": torch.arange(3000.0), "a.bias": torch.ones(2)}
NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])


class Call:
    """Its pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *args: Any):
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


def as_bytes(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def read(folder: Path, data: bytes) -> dict:
    (folder / "file").write_bytes(data)
    return read_checkpoint(str(folder / "file"))


def unpickle(data: bytes) -> Any:
    return load_numpy_pickle(io.BytesIO(data))


# -- Right files -----------------------------------------------------------------------------------


@FORMATS
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
def test_torch_files(tmp_path: Path, content: dict, zipped: bool) -> None:
    found = read(tmp_path, as_bytes(content, zipped))
    assert found["model"].keys() == TENSORS.keys()
    assert all(torch.equal(found["model"][k], v) for k, v in TENSORS.items())
    assert "matching_heuristics" not in found
    assert found.get("iteration") == content.get("iteration")


def test_version_of_modules_is_kept(tmp_path: Path) -> None:
    """Batch norm converts the state of earlier versions by it."""
    state = torch.nn.BatchNorm2d(2).state_dict()
    assert read(tmp_path, as_bytes(state))["model"]._metadata == state._metadata


def test_pycls_file(tmp_path: Path) -> None:
    state = TENSORS | {"bn.num_batches_tracked": torch.tensor(1)}
    found = read(tmp_path, as_bytes({"model_state": state, "epoch": 1}))
    assert found["model"].keys() == TENSORS.keys()
    assert found["matching_heuristics"] is True


def test_detectron2_pickle(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    content = {"model": OrderedDict(a=array), "__author__": "x", "scale": np.float32(2.5)}
    found = read(tmp_path, pickle.dumps(content, 2))
    assert torch.equal(found["model"]["a"], torch.from_numpy(array))
    assert found["scale"] == 2.5
    assert found["__author__"] == "x"


def test_detectron_pickle(tmp_path: Path) -> None:
    arrays = {"conv1_w": np.ones(3), "conv1_w_momentum": np.ones(3)}
    for content in (arrays, {"blobs": arrays, "cfg": "..."}):
        found = read(tmp_path, pickle.dumps(content, 2))
        assert list(found["model"]) == ["conv1_w"]
        assert found["__author__"] == "Caffe2"
        assert found["matching_heuristics"] is True


@given(ARRAYS, st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_arrays(array: np.ndarray, protocol: int, fortran: bool) -> None:
    array = np.asarray(array, order="F" if fortran else "C")
    found = unpickle(pickle.dumps(array, protocol))
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # torch.from_numpy needs a writable array


def test_pickle_of_python_2() -> None:
    """Python 2 wrote text and bytes alike, as strings of 8-bit characters."""
    raw = np.array([1.5, -2.0], dtype="<f4").tobytes()
    data = (
        b"\x80\x02}U\x07conv1_w"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    np.testing.assert_array_equal(unpickle(data)["conv1_w"], [1.5, -2.0])
    np.testing.assert_array_equal(pickle.loads(data, encoding="latin1")["conv1_w"], [1.5, -2.0])


@pytest.mark.skipif(not _TAKES_NAMES, reason="torch before 2.6 takes no stand-ins")
def test_numpy_values_in_a_torch_file(tmp_path: Path) -> None:
    """Checkpoints that detectron2 saved with a hook's best score."""
    state = {"best": np.float64(0.25), "count": np.int32(3), "history": np.arange(4.0)}
    found = read(tmp_path, as_bytes({"model": TENSORS, "trainer": {"hook": state}}))
    found = found["trainer"]["hook"]
    assert (found["best"], found["count"]) == (0.25, 3)
    np.testing.assert_array_equal(found["history"], np.arange(4.0))


# -- Damaged and foreign files ---------------------------------------------------------------------

ZIPPED, OLD = as_bytes(TENSORS), as_bytes(TENSORS, zipped=False)
FLIPPED = bytearray(ZIPPED)
FLIPPED[ZIPPED.index(TENSORS["a.weight"].numpy().tobytes()) + 5000] ^= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (ZIPPED[: len(ZIPPED) // 2], "damaged or truncated"),
        (bytes(FLIPPED), "damaged .*checksum"),
        (OLD[: len(OLD) // 2], "damaged or truncated"),
        (b"<!DOCTYPE html><html>404</html>", "neither a file of torch.save nor a pickle"),
        (as_bytes([torch.ones(1)]), "holds a list, not a dictionary"),
        (as_bytes({"model": {"a": "text"}}), "'a' is of type str"),
        (as_bytes({"model": {5: torch.ones(6)}}), "by names, but has 5"),
        (pickle.dumps({"blobs": [1]}, 2), "'model' is of type list"),
        (pickle.dumps({"a": np.array(["a", "b"])}, 2), "not of numbers"),
        (pickle.dumps({"a": np.ma.masked_array([1, 2], [0, 1])}, 2), "contains pickled code"),
    ],
)
def test_damaged_and_foreign_files(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read(tmp_path, data)
    assert "\n" not in str(error.value)


# -- Nothing is executed ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_calls_a_function(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "made"
    data = pickle.dumps({"w": np.zeros(3), "evil": Call(os.mkdir, str(folder))}, protocol)
    with pytest.raises(
        CheckpointError, match=r"contains pickled code \('.*mkdir'\), which was not run"
    ):
        unpickle(data)
    assert not folder.exists()
    pickle.loads(data)
    assert folder.exists(), "the pickle must be harmful"


@FORMATS
@pytest.mark.parametrize("value", [datetime.datetime.now(), Call(os.mkdir, "made"), {1}.union])
def test_torch_file_with_other_objects(tmp_path: Path, zipped: bool, value: Any) -> None:
    data = as_bytes({"state_dict": TENSORS, "meta": {"value": value}}, zipped)
    with pytest.raises(CheckpointError, match="which is not loaded for safety") as error:
        read(tmp_path, data)
    assert "weights_only" not in str(error.value), "torch's advice is to execute it"
    assert not Path("made").exists()


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


def test_torchscript_program(tmp_path: Path) -> None:
    written = tmp_path / "written"
    path = str(tmp_path / "a.pth")
    torch.jit.script(WritesAFile(str(written))).save(path)
    with pytest.raises(CheckpointError, match=r"a TorchScript program.* not run"):
        read_checkpoint(path)
    assert not written.exists()
    torch.jit.load(path)
    assert written.exists(), "the program must write its file"


def test_tar_file_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    name = OLD[:15].decode("utf-8", "surrogateescape")  # looks like another old file of torch
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
        archive.addfile(tarfile.TarInfo("storages"))
    assert path.read_bytes().startswith(OLD[:15])
    with pytest.raises(CheckpointError, match=r"tar file of torch 0\.1"):
        read_checkpoint(str(path))
