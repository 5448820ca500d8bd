"""Safe reading of weights: files of detectron2, Detectron, pycls, MMDetection and torchvision."""

import contextlib
import pickle
import re
import tarfile
import zipfile
from typing import Any, BinaryIO

import numpy as np
import torch
from detectron2.utils.file_io import PathManager

from ga_detectron2.errors import CheckpointError

from .safe_pickle import ALLOWED, load_numpy_pickle, unwrap

__all__ = ["load_torch", "read_checkpoint", "to_tensors"]

_ZIP = b"PK\x03\x04"
# The first of several pickles that torch.save wrote before torch 1.6: a number.
_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# A function or class that weights_only refuses, in the messages of torch 2.3 and newer.
_REFUSED = re.compile(r"(?:Unsupported class|GLOBAL) (\S+)")
_TAKES_NAMES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a file of weights without executing pickled code.

    Args:
        path: local path, or an address that detectron2's ``PathManager`` resolves.

    Returns:
        Tensors by their names in the file under ``model``, and the rest of the file. As in
        detectron2, ``matching_heuristics`` is true if names lack the prefix of their part of the
        model, and ``__author__`` is ``Caffe2`` for Detectron's names.

    Raises:
        CheckpointError: the file is damaged, or its format is not supported.
    """
    with open(PathManager.get_local_path(path), "rb") as file:
        start = file.read(len(_OLD_TORCH))
        file.seek(0)
        if start.startswith((_ZIP, _OLD_TORCH)):
            content = load_torch(file)
        elif start.startswith(b"\x80"):
            content = load_numpy_pickle(file)
            if isinstance(content, dict) and "__author__" not in content:  # Detectron
                arrays = content.get("blobs", content)
                if isinstance(arrays, dict):
                    arrays = {k: v for k, v in arrays.items() if not str(k).endswith("_momentum")}
                content = {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
        else:
            raise CheckpointError(
                "neither a file of torch.save nor a pickle of numpy arrays" if start else "empty"
            )
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__}, not a dictionary of tensors")
    if "model_state" in content:  # pycls
        state = to_tensors(content["model_state"])
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    for key in ("model", "state_dict"):  # of detectron2 and MMDetection
        if isinstance(content.get(key), dict):
            return {**content, "model": to_tensors(content[key])}
    return {"model": to_tensors(content)}


def load_torch(file: BinaryIO) -> Any:
    """Read what ``torch.save`` wrote, on the CPU, with NumPy scalars (from torch 2.6).

    Raises:
        CheckpointError: the file is damaged, a program, or holds other objects.
    """
    try:
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        if is_zip:
            _check_zip(file)
        elif tarfile.is_tarfile(file):  # torch before 2.6 would unpack it (CVE-2025-32434)
            raise CheckpointError("a .tar file of torch 0.1, which is not supported")
        file.seek(0)
        allowed: Any = contextlib.nullcontext()
        if _TAKES_NAMES:
            names: list[Any] = [(stand_in, name) for name, stand_in in ALLOWED.items()]
            allowed = torch.serialization.safe_globals(names)
        with allowed:
            return unwrap(torch.load(file, map_location="cpu", weights_only=True))
    except CheckpointError:
        raise
    except Exception as error:  # A damaged file can fail in any way.
        if refused := _REFUSED.search(str(error)):
            raise CheckpointError(
                f"holds a '{refused[1]}', which is not loaded for safety; save tensors and plain "
                "values only"
            ) from error
        reason = str(error).split("WeightsUnpickler error:")[-1].strip() or type(error).__name__
        raise CheckpointError(f"damaged or truncated ({reason.splitlines()[0]})") from error


def _check_zip(file: BinaryIO) -> None:
    """Refuse wrong checksums, which torch does not notice, and programs of TorchScript.

    torch before 2.6 runs a program that it loads, even with ``weights_only`` (CVE-2025-32434).
    """
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise CheckpointError(f"damaged (wrong checksum of its part '{damaged}')")
    file.seek(0)
    # Not by the names that zipfile finds: a file can show others to torch.
    if "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records():
        raise CheckpointError("a TorchScript program, not weights; it was not run")


def to_tensors(content: Any) -> dict[str, torch.Tensor]:
    """Replace numpy arrays in a dictionary of tensors by tensors, in place.

    Raises:
        CheckpointError: it holds anything else, or is not a dictionary with names.
    """
    if not isinstance(content, dict):
        raise CheckpointError(f"expected a dictionary of tensors, not {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"expected a dictionary of tensors by names, but has {name!r}")
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise CheckpointError(
                f"expected a dictionary of tensors, but '{name}' is of type {type(value).__name__}"
            )
        try:
            content[name] = torch.as_tensor(value)
        except TypeError as error:
            raise CheckpointError(f"'{name}': its dtype is not supported by torch") from error
    return content
