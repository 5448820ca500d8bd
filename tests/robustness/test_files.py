"""Files of proposals and weights that are damaged, of another kind, or meant to do harm."""

import contextlib
import functools
import io
import os
import pickle
import re
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.checkpoint import GACheckpointer, numpy_pickle
from ga_detectron2.checkpoint.files import read_checkpoint_file
from ga_detectron2.checkpoint.pickle_check import check_pickle
from ga_detectron2.data.proposal_files import (
    ProposalFileError,
    Proposals,
    read_mmdet_proposals,
    read_proposals,
    write_proposals,
)
from ga_detectron2.errors import CheckpointError
from tests.robustness.examples import EXAMPLES


class Harm:
    """Its pickle makes a folder when it is opened by an ordinary unpickler."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def detectron2_proposals() -> bytes:
    content = {
        "ids": [1, 2],
        "boxes": [np.ones((2, 4), np.float32), np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.ones(2, np.float32), np.zeros(0, np.float32)],
        "bbox_mode": 0,
    }
    return pickle.dumps(content, protocol=4)


def mmdet_proposals() -> bytes:
    return pickle.dumps([np.full((2, 5), 0.5, np.float32), np.zeros((0, 5), np.float32)])


def torch_file(old: bool = False) -> bytes:
    buffer = io.BytesIO()
    state = {"model": {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, "iteration": 3}
    torch.save(state, buffer, _use_new_zipfile_serialization=not old)
    if not old:
        return buffer.getvalue()
    # The old format names tensors by their addresses, which would be others in every run.
    names: dict[bytes, bytes] = {}
    return re.sub(
        rb"\d{9,}",
        lambda m: names.setdefault(m[0], str(len(names)).encode().zfill(len(m[0]))),
        buffer.getvalue(),
    )


def numpy_file() -> bytes:
    return pickle.dumps({"model": {"a": np.arange(6.0)}, "__author__": "x"}, protocol=2)


def as_proposals(path: str) -> Proposals:
    return read_proposals(path)


def as_mmdet_proposals(path: str) -> Proposals:
    return read_mmdet_proposals(path, [1, 2])


SOURCES: dict[str, tuple[Callable[[], bytes], Callable[[str], Any]]] = {
    "proposals": (detectron2_proposals, as_proposals),
    "mmdet proposals": (mmdet_proposals, as_mmdet_proposals),
    "weights": (torch_file, read_checkpoint_file),
    "old weights": (lambda: torch_file(old=True), read_checkpoint_file),
    "numpy weights": (numpy_file, read_checkpoint_file),
}


@functools.cache
def whole_file(name: str) -> bytes:
    return SOURCES[name][0]()


@pytest.mark.parametrize("name", SOURCES)
def test_whole_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "whole").write_bytes(whole_file(name))
    SOURCES[name][1](str(tmp_path / "whole"))


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Cut, changed, or with something put in: read, or refused with one kind of error."""
    read = SOURCES[name][1]
    content = bytearray(whole_file(name))
    positions = st.integers(0, len(content) - 1)
    for at, byte in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=4)):
        content[at] = byte
    if data.draw(st.booleans()):
        at = data.draw(positions)
        content[at:at] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        content = content[: data.draw(positions)]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(content))
    with contextlib.suppress(CheckpointError, ProposalFileError):
        read(str(path))


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=EXAMPLES)
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    with pytest.raises((CheckpointError, ProposalFileError)):
        SOURCES[name][1](str(path))


@pytest.mark.parametrize("name", ["proposals", "mmdet proposals", "weights"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_executed(tmp_path: Path, name: str, protocol: int) -> None:
    made = tmp_path / "made"
    content = pickle.dumps({"ids": [Harm(made)], "model": Harm(made)}, protocol)
    (tmp_path / "evil").write_bytes(content)
    with pytest.raises((CheckpointError, ProposalFileError)):
        SOURCES[name][1](str(tmp_path / "evil"))
    assert not made.exists()
    with contextlib.suppress(FileExistsError):
        pickle.loads(content)
    assert made.exists(), "the pickle must be one that does harm"


def test_nothing_in_a_file_of_torch_is_executed(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"model": {"a": torch.ones(2)}, "evil": Harm(made)}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read_checkpoint_file(str(tmp_path / "evil.pth"))
    assert not made.exists()


@pytest.mark.parametrize("name", ["proposals", "mmdet proposals", "numpy weights"])
def test_a_few_bytes_that_stand_for_billions_of_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(numpy_pickle, "MOST_VALUES", 1000)
    values: list = []
    for _ in range(4):
        values = [values] * 10
    (tmp_path / "bomb").write_bytes(pickle.dumps({"ids": values, "blobs": {"a": values}}, 4))
    with pytest.raises((CheckpointError, ProposalFileError), match="more than 1000 values"):
        SOURCES[name][1](str(tmp_path / "bomb"))


@pytest.mark.parametrize("name", ["proposals", "mmdet proposals", "numpy weights"])
@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x1f", b"p536870911\n"])
def test_a_high_number_of_an_object_takes_no_memory(tmp_path: Path, name: str, put: bytes) -> None:
    """Python's unpickler would fill 8 GiB with zeros."""
    (tmp_path / "bomb").write_bytes(b"\x80\x02}" + put + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((CheckpointError, ProposalFileError), match="the number 536870911"):
        SOURCES[name][1](str(tmp_path / "bomb"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20


def in_torch_file(content: bytes, old: bool) -> bytes:
    """A file of torch whose content is this pickle."""
    buffer = io.BytesIO()
    if old:
        for head in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(head, buffer, protocol=2)
        buffer.write(content + pickle.dumps([], protocol=2))
    else:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "proposals": bytes,
    "mmdet proposals": bytes,
    "weights": functools.partial(in_torch_file, old=False),
    "old weights": functools.partial(in_torch_file, old=True),
    "numpy weights": bytes,
}


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("end", [b"Ns.", b"\x85R."], ids=["key", "function"])
def test_tuples_within_tuples_take_no_time(tmp_path: Path, name: str, end: bytes) -> None:
    """Each holds the one before twice: to hash the last is to look at 2**60 of them."""
    start = b"}" if end == b"Ns." else b"ccollections\nOrderedDict\n"
    tower = b")" + b"q\x01h\x01\x86" * 60
    for content in (tower, tower.replace(b"q\x01h\x01", b"2"), b"(" * 2 + tower + b"1l0" + tower):
        (tmp_path / "bomb").write_bytes(WRAPS[name](b"\x80\x02" + start + content + end))
        with pytest.raises((CheckpointError, ProposalFileError), match="bytes of it stand for"):
            SOURCES[name][1](str(tmp_path / "bomb"))


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize("filled", ["first", "last"])
def test_lists_within_lists_are_not_written_out(tmp_path: Path, name: str, filled: str) -> None:
    """As something to call, of which torch would write an error."""
    if filled == "first":
        lists = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    else:
        lists = b"".join(b"]q%c" % i for i in range(60))
        lists += b"".join(b"h%c(h%ch%ce" % (i, i + 1, i + 1) for i in range(59)) + b"h\x00"
    (tmp_path / "bomb").write_bytes(WRAPS[name](b"\x80\x02" + lists + b")R."))
    with pytest.raises((CheckpointError, ProposalFileError), match="bytes of it stand for"):
        SOURCES[name][1](str(tmp_path / "bomb"))


@pytest.mark.parametrize("name", WRAPS)
def test_a_list_that_holds_itself(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(WRAPS[name](b"\x80\x02}U\x01a]q\x01]q\x02h\x01aas."))
    with pytest.raises((CheckpointError, ProposalFileError), match="dictionary that holds itself"):
        SOURCES[name][1](str(tmp_path / "a"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_many_small_arrays_are_no_harm(protocol: int) -> None:
    """What a file of proposals has most of, and what several places of a file share."""
    shared = tuple(range(1000))
    content = {
        "boxes": [np.zeros((0, 4), np.float32) for _ in range(2000)],
        "scores": [[np.zeros(1, ">f8")] * 10 for _ in range(100)],
        "meta": [shared] * 100,
    }
    file = io.BytesIO(pickle.dumps(content, protocol) + b"what follows")
    check_pickle(file)
    assert file.read() == b"what follows"


@pytest.mark.parametrize("name", WRAPS)
def test_many_keys_of_many_values_take_no_time(tmp_path: Path, name: str) -> None:
    """Each key alone would be no harm."""
    tower = b")" + b"q\x01h\x01\x86" * 16
    content = b"\x80\x02" + tower + b"q\x020}" + b"h\x02Ns" * 100 + b"."
    (tmp_path / "bomb").write_bytes(WRAPS[name](content))
    with pytest.raises((CheckpointError, ProposalFileError), match="bytes of it stand for"):
        SOURCES[name][1](str(tmp_path / "bomb"))


def test_ordered_dictionaries_have_names() -> None:
    """A list can be filled behind the back of the check, but what it holds is not hashed."""

    def read(key: bytes) -> Any:
        pairs = b"]q\x01]" + key + b"aK\x05aa"
        call = b"0ccollections\nOrderedDict\nh\x01\x85R."
        return numpy_pickle.load_numpy_pickle(io.BytesIO(b"\x80\x02" + pairs + call))

    assert read(b"U\x01a") == {"a": 5}
    with pytest.raises(CheckpointError, match="a tuple as a name"):
        read(b")")


def test_a_list_where_text_belongs() -> None:
    content = io.BytesIO(b"\x80\x02cnumpy\ndtype\n]\x85R.")
    with pytest.raises(CheckpointError, match="a list where text belongs"):
        numpy_pickle.load_numpy_pickle(content)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": "text"}}, "'a' is of type str"),
        ({"model": {"a": torch.ones(6), 5: torch.ones(6)}}, "by names, but has 5"),
        ({"model": {}}, "holds no tensor"),
        ({"model": {}, "matching_heuristics": True}, "holds no tensor"),
        ({"model": {"a": torch.ones(6, dtype=torch.bool).to_sparse()}}, "cannot be put into"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, content: dict, message: str) -> None:
    path = str(tmp_path / "a.pth")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        GACheckpointer(Small()).load(path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({2.5: np.ones(6)}, "by names, but has 2.5"),
        ({"blobs": [1]}, "holds a list as blobs"),
        ({"blobs": {None: np.ones(6)}}, "by names, but has None"),
        ({"model_state": {3: np.ones(6)}, "__author__": "x"}, "by names, but has 3"),
    ],
)
def test_arrays_without_names(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    with pytest.raises(CheckpointError, match=message):
        GACheckpointer(Small()).load(str(tmp_path / "a.pkl"))


def test_numbers_that_torch_does_not_have(tmp_path: Path) -> None:
    values = {"a": np.ones(6, np.uint16), "__author__": "x"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": values, "__author__": "x"}))
    with pytest.raises(CheckpointError, match="type"):
        GACheckpointer(Small()).load(str(tmp_path / "a.pkl"))


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_checkpoint_file(str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [np.ones((2, 5), np.float32)] * 2}, "image 1 has boxes of the shape"),
        ({"boxes": [None, None]}, "image 1 has no array of boxes"),
        ({"objectness_logits": [np.ones(3, np.float32)] * 2}, "image 1 has 2 boxes and 3 scores"),
        ({"boxes": [np.full((2, 4), np.nan, np.float32)] * 2}, "not finite"),
        ({"objectness_logits": [np.full(2, np.inf, np.float32)] * 2}, "not finite"),
        ({"ids": [1, 1]}, "image 1 twice"),
        ({"ids": [1]}, "equally long"),
        ({"ids": [[1], [2]]}, "has the id"),
        ({"ids": 5}, "with the lists"),
    ],
)
def test_proposals_that_do_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    content = pickle.loads(detectron2_proposals()) | {
        "boxes": [np.ones((2, 4), np.float32)] * 2,
        "objectness_logits": [np.ones(2, np.float32)] * 2,
    }
    path = str(tmp_path / "proposals.pkl")
    with open(path, "wb") as file:
        pickle.dump(content, file)
    read_proposals(path)
    with open(path, "wb") as file:
        pickle.dump(content | change, file)
    with pytest.raises(ProposalFileError, match=message) as error:
        read_proposals(path)
    assert path in str(error.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "proposals.pkl")
    written = Proposals([7, "a"], [np.ones((1, 4), np.float32)] * 2, [np.ones(1, np.float32)] * 2)
    write_proposals(path, written)
    assert read_proposals(path).ids == [7, "a"]
