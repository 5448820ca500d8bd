"""Atomic file writes: a file is visible only once it is complete."""

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any

__all__ = ["UNFINISHED", "atomic_open"]

UNFINISHED = ".unfinished"
"""Suffix of a file while it is written."""


@contextlib.contextmanager
def atomic_open(path: str, mode: str = "wb", sync: bool = True) -> Iterator[IO[Any]]:
    """Open a local file for writing that replaces ``path`` when it is complete.

    Args:
        path: file to write; its folder exists.
        mode: "wb" or "w".
        sync: whether the file has to survive a power failure, which costs some milliseconds.

    Raises:
        OSError: the file cannot be written; names ``path``. An existing file is unchanged.
    """
    unfinished = path + UNFINISHED
    try:
        try:
            with open(unfinished, mode) as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(unfinished)
            raise
        if sync:  # the new name, too
            folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if error.filename in (None, unfinished):
            raise OSError(error.errno, error.strerror, path) from error
        raise
