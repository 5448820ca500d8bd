"""Damaged files of weights and proposals are read or refused with one kind of error."""

import contextlib
import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.checkpoint.reading import read_checkpoint
from ga_detectron2.data.proposal_files import (
    Proposals,
    read_mmdet_proposals,
    read_proposals,
    write_proposals,
)
from ga_detectron2.errors import GAError
from tests.robustness.examples import EXAMPLES

PROPOSALS = {
    "ids": [1, 2],
    "boxes": [np.ones((2, 4), np.float32)] * 2,
    "objectness_logits": [np.ones(2, np.float32)] * 2,
    "bbox_mode": 0,
}


def torch_file(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    state = {"model": {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, "iteration": 3}
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    # The old format names tensors by their addresses, which differ between runs.
    names: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return names.setdefault(match[0], b"%d" % len(names)).zfill(len(match[0]))

    return buffer.getvalue() if zipped else re.sub(rb"\d{9,}", number, buffer.getvalue())


SOURCES: dict[str, tuple[bytes, Callable[[str], Any]]] = {
    "proposals": (pickle.dumps(PROPOSALS, 4), read_proposals),
    "mmdet proposals": (
        pickle.dumps([np.full((2, 5), 0.5, np.float32), np.zeros((0, 5), np.float32)]),
        lambda path: read_mmdet_proposals(path, [1, 2]),
    ),
    "weights": (torch_file(True), read_checkpoint),
    "old weights": (torch_file(False), read_checkpoint),
    "numpy weights": (
        pickle.dumps({"model": {"a": np.arange(6.0)}, "__author__": "x"}, protocol=2),
        read_checkpoint,
    ),
}


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Changed bytes, inserted bytes and a cut."""
    whole, read = SOURCES[name]
    content = bytearray(whole)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    read(str(path))
    positions = st.integers(0, len(content) - 1)
    for at, byte in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=4)):
        content[at] = byte
    if data.draw(st.booleans()):
        at = data.draw(positions)
        content[at:at] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        content = content[: data.draw(positions)]
    path.write_bytes(content)
    with contextlib.suppress(GAError):
        read(str(path))


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=EXAMPLES)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    with pytest.raises(GAError):
        SOURCES[name][1](str(path))


class Harm:
    """Its pickle creates a folder when an ordinary unpickler loads it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["proposals", "mmdet proposals"])
def test_proposals_execute_nothing(tmp_path: Path, name: str) -> None:
    content = pickle.dumps({"ids": [Harm(tmp_path / "made")]})
    (tmp_path / "evil").write_bytes(content)
    with pytest.raises(GAError, match="not run"):
        SOURCES[name][1](str(tmp_path / "evil"))
    assert not (tmp_path / "made").exists()
    pickle.loads(content)
    assert (tmp_path / "made").exists(), "the pickle must be harmful"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [np.ones((2, 5), np.float32)] * 2}, "image 1 has boxes of the shape"),
        ({"objectness_logits": [np.ones(3, np.float32)] * 2}, "image 1 has 2 boxes and 3 scores"),
        ({"boxes": [np.full((2, 4), np.nan, np.float32)] * 2}, "not finite"),
        ({"boxes": [None, None]}, "image 1 has no array of boxes"),
        ({"ids": [1, 1]}, "image 1 twice"),
        ({"ids": [1]}, "equally long"),
        ({"ids": 5}, "with the lists"),
    ],
)
def test_inconsistent_proposals(tmp_path: Path, change: dict, message: str) -> None:
    path = str(tmp_path / "proposals.pkl")
    with open(path, "wb") as file:
        pickle.dump(PROPOSALS | change, file)
    with pytest.raises(GAError, match=message) as error:
        read_proposals(path)
    assert path in str(error.value)


def test_written_proposals_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "proposals.pkl")
    boxes = [np.random.rand(n, 4).astype(np.float32) for n in (2, 0)]
    written = Proposals([7, "a"], boxes, [b[:, 0] for b in boxes])
    write_proposals(path, written)
    found = read_proposals(path)
    assert found.ids == [7, "a"]
    for ours, theirs in zip(found[1] + found[2], written[1] + written[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
