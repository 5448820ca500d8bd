"""Files that appear under their name when they are complete, whatever happens on the way."""

from typing import Any

from ga_detectron2.atomic import atomic_open

__all__ = ["AtomicFiles"]


class AtomicFiles:
    """A path manager of iopath, save that local files which it opens to write are atomic.

    A file that could not be completed is deleted if the process still can do that; otherwise it
    stays with the suffix ``UNFINISHED``, and the next attempt replaces it.
    """

    def __init__(self, path_manager: Any):
        self._path_manager = path_manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._path_manager, name)

    def open(self, path: str, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """As the path manager's; a context manager for a local path and mode "w" or "wb"."""
        if mode in ("w", "wb") and "://" not in path:
            return atomic_open(path, mode)
        return self._path_manager.open(path, mode, *args, **kwargs)
