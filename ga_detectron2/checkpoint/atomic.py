"""Files that appear under their name when they are complete, whatever happens on the way."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

__all__ = ["UNFINISHED", "AtomicFiles"]

UNFINISHED = ".unfinished"
"""What the name of a file ends with while it is written."""


class AtomicFiles:
    """A path manager of iopath, save that local files which it opens to write are atomic.

    A file that could not be completed is deleted if the process still can do that; otherwise it
    stays under its name with :data:`UNFINISHED`, and the next attempt replaces it.
    """

    def __init__(self, path_manager: Any):
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """As the path manager's; a context manager for a local path and mode "w" or "wb"."""
        if mode in ("w", "wb") and "://" not in path:
            return _open_atomically(path, mode)
        return self._path_manager.open(path, mode, *args, **kwargs)


@contextmanager
def _open_atomically(path: str, mode: str) -> Iterator[IO[Any]]:
    unfinished = path + UNFINISHED
    try:
        with open(unfinished, mode) as file:
            yield file
            file.flush()
            # Without, a machine that fails could leave the new name with nothing behind it.
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
