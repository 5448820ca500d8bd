"""Checks of output paths, made before a tool starts its work."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.errors import ConfigError

__all__ = ["check_output_file", "check_output_folder", "full_disk_in_one_line"]

_FULL = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Errors of a disk that takes no more data. (Some systems lack EDQUOT.)"""


def check_output_file(option: str, path: str, inputs: Iterable[str] = ()) -> None:
    """Check that a file can be written. Neither the file nor its folder is created.

    Args:
        option: command-line option or key that ``path`` comes from, such as ``--json``.
        path: new or existing file, whose folder may be missing.
        inputs: files that must not be overwritten.

    Raises:
        ConfigError: names the option, the path and the reason.
    """
    if os.path.isdir(path) or path.endswith(os.sep):
        raise ConfigError(f"{option}: {path} is a folder, not the name of a file")
    if not os.path.exists(path):
        _check_folder(option, path, os.path.dirname(os.path.abspath(path)))
    elif not os.access(path, os.W_OK):
        raise ConfigError(f"{option}: {path} cannot be written (Permission denied)")
    for file in inputs:
        if _is_same(path, file):
            raise ConfigError(
                f"{option}: {path} is an input and would be overwritten: choose another"
            )


def check_output_folder(option: str, path: str, inputs: Iterable[str] = ()) -> None:
    """Check that files can be written to a folder. It is not created.

    Args:
        option, path: as for :func:`check_output_file`.
        inputs: files whose names the outputs may have; none may be in this folder.

    Raises:
        ConfigError: names the option, the path and the reason.
    """
    _check_folder(option, path, os.path.abspath(path))
    for file in inputs:
        if _is_same(path, os.path.dirname(os.path.abspath(file))):
            raise ConfigError(
                f"{option}: {path} holds the input {file}, which could be overwritten; "
                "choose another folder"
            )


def _is_same(path: str, other: str) -> bool:
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _check_folder(option: str, path: str, folder: str) -> None:
    # Missing folders are created by the writer, so that a refused run leaves none behind.
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if os.path.exists(folder) and not os.path.isdir(folder):
        where = "it " if os.path.abspath(path) == folder else f"{folder} "
        raise ConfigError(f"{option}: {path} cannot be written: {where}is a file, not a folder")
    try:
        # Permissions do not tell: root may not write to a full or read-only disk either.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        where = "" if os.path.abspath(path) == folder else f" in {folder}"
        raise ConfigError(
            f"{option}: {path} cannot be written: no file can be made{where or ' there'} "
            f"({error.strerror})"
        ) from error


@contextmanager
def full_disk_in_one_line(key: str, folder: str) -> Iterator[None]:
    """Add the output folder and the last checkpoint to errors of a disk that takes no more data.

    Python names a file that cannot be opened, but not one that cannot grow.

    Args:
        key: key of the configuration for the output folder.
        folder: output folder of a training.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        last = os.path.basename(GACheckpointer(nn.Identity(), folder).get_checkpoint_file())
        raise OSError(
            f"a file could not be written ({error.strerror}); {key} is {folder}. "
            + (f"The last checkpoint is {last}" if last else "There is no checkpoint yet")
        ) from error
