"""A restricted unpickler for numpy arrays, with which a file cannot call any other function."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from ga_detectron2.errors import CheckpointError

__all__ = ["ALLOWED", "load_numpy_pickle", "unwrap"]


def load_numpy_pickle(file: IO[bytes]) -> Any:
    """Read a pickle of numpy arrays of numbers, strings and plain values in dictionaries and lists.

    detectron2 publishes ImageNet backbones and older models in such files.

    Args:
        file: pickle of Python 2 or 3. Text of Python 2 is decoded as latin-1, as in detectron2.

    Raises:
        CheckpointError: the file is damaged, or contains anything else.
    """
    try:
        return unwrap(_Unpickler(file, encoding="latin1").load())
    except CheckpointError:
        raise
    except Exception as error:  # A damaged pickle can fail in any way.
        raise CheckpointError(f"damaged or truncated ({error})") from error


class _DType:
    """Stand-in for ``numpy.dtype``, whose own ``__setstate__`` trusts its argument."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufc":
            raise CheckpointError(f"holds an array of type {self.dtype}, not of numbers")

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stand-in for an array that ``_reconstruct`` makes and ``__setstate__`` fills."""

    def __init__(self, *args: Any):
        self.array = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _make_array(data, dtype, shape, "F" if is_fortran else "C")


class _Ndarray:
    """Stand-in for the class ``numpy.ndarray``, an argument of ``_reconstruct``."""


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    result = _Array()
    result.array = _make_array(data, dtype, shape, order)
    return result


def _scalar(dtype: Any, data: Any) -> Any:
    return _make_array(data, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    """``codecs.encode``, with which protocol 2 writes bytes."""
    return text.encode("latin1")


def _make_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """A writable array in the machine's byte order, since torch accepts no other."""
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
    return array.astype(dtype.dtype.newbyteorder("="), order="C", copy=True)


ALLOWED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "builtins.bytes": bytes,
    "__builtin__.bytes": bytes,
    "numpy.dtype": _DType,
    "numpy.ndarray": _Ndarray,
}
"""What a pickle may name, and what it gets."""
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    ALLOWED[f"{_core}.multiarray._reconstruct"] = _Array
    ALLOWED[f"{_core}.multiarray.scalar"] = _scalar
    ALLOWED[f"{_core}.numeric._frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise CheckpointError(f"contains pickled code ('{module}.{name}'), which was not run")
        return ALLOWED[f"{module}.{name}"]


def unwrap(value: Any) -> Any:
    """Replace the stand-ins of arrays by the arrays, in dictionaries and lists in place."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, dict):
        for key in value:
            value[key] = unwrap(value[key])
    elif isinstance(value, list):
        value[:] = map(unwrap, value)
    elif type(value) is tuple:
        return tuple(map(unwrap, value))
    return value
