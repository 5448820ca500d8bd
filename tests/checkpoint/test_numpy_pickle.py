import io
import pickle
import pickletools
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ga_detectron2.checkpoint.numpy_pickle import load_numpy_pickle
from ga_detectron2.errors import CheckpointError

NUMBERS = hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.floating_dtypes(sizes=(16, 32, 64))
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def read(data: bytes):
    return load_numpy_pickle(io.BytesIO(data))


def assert_same(found, expected):
    assert found.dtype == expected.dtype.newbyteorder("=")
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    found[...] = 0  # torch.from_numpy needs an array that can be written to


@given(ARRAYS, st.integers(0, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_reads_what_numpy_writes(array, protocol, fortran):
    array = np.asarray(array, order="F" if fortran else "C")
    assert_same(read(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_reads_a_file_of_detectron2s_kind(protocol):
    content = {
        "model": OrderedDict(a=np.arange(6.0).reshape(2, 3), b=np.float32(2.5)),
        "__author__": "someone",
        "matching_heuristics": True,
        "more": [1, (2.0, None)],
    }
    found = read(pickle.dumps(content, protocol))
    assert isinstance(found["model"], OrderedDict)
    assert_same(found["model"]["a"], content["model"]["a"])
    assert found["model"]["b"] == 2.5
    assert {k: v for k, v in found.items() if k != "model"} == {
        k: v for k, v in content.items() if k != "model"
    }


def test_reads_what_numpy_2_writes():
    array = np.arange(4, dtype=np.int16)
    data = pickle.dumps(array, 2)
    data = data.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")
    assert b"numpy._core" in data
    assert_same(read(data), array)


def test_reads_what_python_2_wrote():
    """Python 2 wrote text and bytes alike, as strings of 8-bit characters."""
    raw = np.array([1.5, -2.0], dtype="<f4").tobytes()
    assert max(raw) > 127
    data = (
        b"\x80\x02}U\x07conv1_w"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    np.testing.assert_array_equal(read(data)["conv1_w"], [1.5, -2.0])
    # numpy itself agrees that this is such a pickle.
    expected = pickle.loads(data, encoding="latin1")
    np.testing.assert_array_equal(expected["conv1_w"], [1.5, -2.0])


class Call:
    """Its pickle calls a function when it is read."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_executes_nothing(protocol, tmp_path):
    witness = tmp_path / "witness"
    data = pickle.dumps({"w": np.zeros(3), "evil": Call(open, str(witness), "w")}, protocol)
    with pytest.raises(CheckpointError, match=r"asks for '.*open'.* not executed"):
        read(data)
    assert not witness.exists()
    pickle.loads(data)["evil"].close()
    assert witness.exists(), "the pickle must be one that does harm"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([Call(print, "x"), 1], dtype=object), "not of numbers"),
        (np.array([1, "a"], dtype=object), "not of numbers"),
        (np.array(["a", "b"]), "not of numbers"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "not of numbers"),
        (np.array(["2020-02-20"], dtype="datetime64[D]"), "not of numbers"),
        (Call(np.load, "x"), "asks for"),
        (Call(eval, "1"), "asks for"),
        (np.ma.masked_array([1, 2], [0, 1]), "asks for"),
    ],
)
def test_refuses_all_but_numbers(value, message):
    with pytest.raises(CheckpointError, match=message):
        read(pickle.dumps({"a": value}, 2))


def test_refuses_an_array_that_lies_about_its_size():
    data = pickle.dumps(np.zeros((2, 3), dtype=np.float32), 2)
    assert data.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(CheckpointError, match="damaged"):
        read(data.replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"))


SAMPLE = pickle.dumps({"model": {"a": np.arange(20.0), "b": np.float32(1)}, "__author__": "x"}, 2)


@pytest.mark.parametrize("end", range(0, len(SAMPLE) - 1, 7))
def test_refuses_a_truncated_file(end):
    with pytest.raises(CheckpointError, match="damaged, truncated"):
        read(SAMPLE[:end])


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_file_is_read_or_refused(changes):
    """Whatever a file holds, nothing but CheckpointError comes out, and no foreign object."""
    data = bytearray(SAMPLE)
    for at, byte in changes:
        data[at] = byte
    try:
        found = read(bytes(data))
    except CheckpointError:
        return
    for value in flatten(found):
        assert type(value).__module__ in ("builtins", "numpy", "collections"), pickletools.dis(data)


def flatten(value):
    yield value
    if isinstance(value, dict):
        for k, v in value.items():
            yield from flatten(k)
            yield from flatten(v)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for v in value:
            yield from flatten(v)
