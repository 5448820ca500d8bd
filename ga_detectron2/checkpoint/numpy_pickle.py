"""Reading pickled numpy arrays without running what a pickle asks to run.

detectron2 publishes its ImageNet weights and its older models as pickles of dictionaries of numpy
arrays. An ordinary unpickler calls whatever a file names, so a file can do anything to whoever
opens it. Here a file gets neither numpy's functions nor any other: only the few names that arrays
and dictionaries need are known, and each leads to a record of this module, which checks what it
is given and copies the numbers out of it.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from ga_detectron2.errors import CheckpointError

from .pickle_check import check_pickle

__all__ = ["load_numpy_pickle"]

# A few bytes can stand for billions of values: a list of lists of lists, each several times.
MOST_VALUES = 20_000_000


def load_numpy_pickle(file: IO[bytes]) -> Any:
    """Read a pickle of dictionaries, lists, strings, numbers and numpy arrays of numbers.

    Args:
        file: pickle of Python 2 or 3. Text that Python 2 wrote is read as latin-1, as detectron2
            reads it.

    Returns:
        What was pickled.

    Raises:
        CheckpointError: if the file is damaged, or asks for anything else.
    """
    try:
        start = file.tell()
        check_pickle(file)
        file.seek(start)
        content = _Unpickler(file, encoding="latin1").load()
        return _Values().to_arrays(content)
    except CheckpointError:
        raise
    except Exception as e:  # A damaged pickle can fail in any way.
        raise CheckpointError(f"damaged, truncated, or no pickle of numpy arrays ({e})") from e


class _DType:
    """Stands for ``numpy.dtype(code)``."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        self.dtype = np.dtype(_as_text(code))
        if self.dtype.kind not in "biufc":
            raise CheckpointError(f"holds an array of type {self.dtype}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, ...): all but the second are for types
        # that are no numbers.
        if state[2] is not None or state[3] is not None or state[4] is not None:
            raise CheckpointError("holds an array of records, not of numbers")
        # "|" says that the order does not matter, as for single bytes.
        if _as_text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")
        elif _as_text(state[1]) == "<":
            self.dtype = self.dtype.newbyteorder("<")


class _Array:
    """Stands for an array: ``_reconstruct`` makes an empty one, and its state fills it."""

    value: np.ndarray

    def __init__(self, *args: Any) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _make_array(data, dtype, shape, "F" if is_fortran else "C")


class _Ndarray:
    """Stands for the class ``numpy.ndarray``, which ``_reconstruct`` is given."""


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """Stands for ``numpy.core.numeric._frombuffer``."""
    array = _Array()
    array.value = _make_array(data, dtype, shape, "F" if order == "F" else "C")
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    """Stands for ``numpy.core.multiarray.scalar``."""
    return _make_array(data, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``codecs.encode``, by which protocol 2 writes bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError("holds bytes in another encoding than latin-1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for ``bytes``, by which protocol 2 writes none."""
    return b""


def _make_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType):
        raise CheckpointError("holds an array without a type")
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    array = np.frombuffer(data, dtype=dtype.dtype).reshape(shape, order=order)
    # A copy, since what frombuffer returns cannot be written to; in this machine's byte order,
    # since torch takes no other.
    return array.astype(dtype.dtype.newbyteorder("="), order="C", copy=True)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    # Not of whatever it is: that can be as long as lists within lists make it.
    if not isinstance(value, str):
        raise CheckpointError(f"holds a {type(value).__name__} where text belongs")
    return value


def _ordered(pairs: Any = ()) -> OrderedDict:
    """Stands for ``collections.OrderedDict``, of which Python 2 writes the pairs with it."""
    result: OrderedDict = OrderedDict()
    for key, value in pairs:
        if not isinstance(key, str | bytes | int):
            raise CheckpointError(f"holds a {type(key).__name__} as a name")
        result[key] = value
    return result


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Ndarray,
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    _KNOWN[_core + ".multiarray", "_reconstruct"] = _Array
    _KNOWN[_core + ".multiarray", "scalar"] = _scalar
    _KNOWN[_core + ".numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise CheckpointError(
                f"asks for '{module}.{name}', which arrays do not need; it was not executed"
            )
        return _KNOWN[module, name]


class _Values:
    """Puts the arrays into the place of the records that stand for them, and counts."""

    def __init__(self) -> None:
        self._count = 0

    def to_arrays(self, value: Any) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise CheckpointError(f"stands for more than {MOST_VALUES} values")
        if isinstance(value, _Array):
            return value.value
        if isinstance(value, dict):
            return type(value)((k, self.to_arrays(v)) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return type(value)(self.to_arrays(v) for v in value)
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
            return value
        raise CheckpointError(f"holds a {type(value).__name__.lstrip('_')} where none belongs")
