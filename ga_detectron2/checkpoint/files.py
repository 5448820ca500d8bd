"""What a file of weights holds, whoever wrote it, without executing anything in it."""

import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from detectron2.utils.file_io import PathManager

from ga_detectron2.errors import CheckpointError

from .numpy_pickle import load_numpy_pickle
from .pickle_check import check_pickle

__all__ = ["read_checkpoint_file"]

_ZIP = b"PK\x03\x04"
# What torch.save wrote before torch 1.6: several pickles, of which the first is a number.
_OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
# How torch says that a file asks for a function or a class: until 2.3, and since.
_NOT_ALLOWED = re.compile(r"(?:Unsupported class|GLOBAL) (\S+)")


def read_checkpoint_file(path: str) -> dict[str, Any]:
    """Read a file of detectron2, Detectron, pycls, MMDetection or torchvision.

    Args:
        path: whatever detectron2's ``PathManager`` finds.

    Returns:
        Tensors (or numpy arrays) by their names in the file under ``model``, and what else there
        is beside them. As with detectron2, ``matching_heuristics`` is true where the names are
        those of a part of a model, and ``__author__`` is ``Caffe2`` where they are Detectron's.

    Raises:
        CheckpointError: for a file that is damaged, truncated, or of another kind.
    """
    path = PathManager.get_local_path(path)
    with open(path, "rb") as file:
        start = file.read(max(len(_ZIP), len(_OLD_TORCH)))
        file.seek(0)
        if not start:
            raise CheckpointError("the file is empty")
        if start.startswith((_ZIP, _OLD_TORCH)):
            content = _load_torch(file, is_zip=start.startswith(_ZIP))
        elif start.startswith(b"\x80"):
            content = load_numpy_pickle(file)
            if isinstance(content, dict) and "__author__" not in content:
                return _from_detectron(content)
        else:
            raise CheckpointError("neither a file of torch.save nor a pickle of numpy arrays")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a dictionary of tensors")
    return _find_model(content)


def _load_torch(file: BinaryIO, is_zip: bool) -> Any:
    try:
        if is_zip:
            # torch itself does not notice numbers that have changed.
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"damaged (the checksum of its part '{damaged}' differs)")
            file.seek(0)
        _refuse_programs(file, is_zip)
        _check_pickles(file, is_zip)
        return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as e:  # A damaged file can fail in any way.
        asked_for = _NOT_ALLOWED.search(str(e))
        if asked_for is None:
            reason = str(e).split("WeightsUnpickler error:")[-1].strip() or type(e).__name__
            raise CheckpointError(f"damaged or truncated ({reason.splitlines()[0]})") from e
        raise CheckpointError(
            f"holds a '{asked_for[1]}' beside tensors and plain values; nothing in it was "
            "executed. Save its state_dict alone"
        ) from e


def _refuse_programs(file: BinaryIO, is_zip: bool) -> None:
    """Refuse what ``torch.load`` would not read as weights alone, whatever it was told.

    Before torch 2.6 it hands programs of TorchScript to ``torch.jit.load``, which runs what they do
    when they are loaded, and unpacks the .tar files of torch 0.1 (CVE-2025-32434).
    """
    if is_zip:
        # torch's own reader, since a file can be made to look otherwise to Python's.
        kind = "a program of TorchScript"
        reader = torch._C.PyTorchFileReader(file)
        refused = "constants.pkl" in reader.get_all_records()  # type: ignore[attr-defined]
    else:
        kind = "a .tar file of torch 0.1"
        refused = tarfile.is_tarfile(file)
    if refused:
        raise CheckpointError(f"{kind}, not weights; nothing in it was executed")
    file.seek(0)


def _check_pickles(file: BinaryIO, is_zip: bool) -> None:
    """See :func:`check_pickle`: torch's own unpickler would take as long."""
    if is_zip:
        reader = torch._C.PyTorchFileReader(file)
        check_pickle(io.BytesIO(reader.get_record("data.pkl")))
    else:
        # A number, a version, the system, the content, and the keys of the storages behind them.
        for _ in range(5):
            check_pickle(file)
    file.seek(0)


def _from_detectron(content: Mapping[str, Any]) -> dict[str, Any]:
    """Read the content of a file of Detectron, detectron2's predecessor in Caffe2."""
    blobs = content.get("blobs", content)
    if not isinstance(blobs, Mapping):
        raise CheckpointError(
            f"holds a {type(blobs).__name__} as blobs, not a dictionary of arrays"
        )
    model = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}


def _find_model(content: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(content.get("model"), Mapping):  # detectron2
        return dict(content)
    if isinstance(content.get("model_state"), Mapping):  # pycls
        state = content["model_state"]
        model = {k: v for k, v in state.items() if "num_batches_tracked" not in str(k)}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    if isinstance(content.get("state_dict"), Mapping):  # MMDetection
        return {**content, "model": content["state_dict"]}
    return {"model": dict(content)}
