"""``ga://NAME``: the file of weights of a published model, wherever a path is expected."""

import os
from typing import IO, Any
from urllib.parse import urlparse

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from ga_detectron2.errors import ModelZooError

from .download import download
from .published import IMAGENET_BACKBONES, PUBLISHED_MODELS, RemoteFile

__all__ = ["ModelZooHandler", "find_file", "get_cache_path", "register_handler"]

_FILES = {
    **{
        model.name: RemoteFile(model.weights_url, model.sha256_prefix) for model in PUBLISHED_MODELS
    },
    **IMAGENET_BACKBONES,
}


class ModelZooHandler(PathHandler):
    """Resolve ``ga://ga_faster_R_101`` and the like.

    The file is downloaded once and verified by its SHA-256, into the folder ``ga_detectron2`` of
    the cache that detectron2 uses: ``$FVCORE_CACHE``, or ``~/.torch/iopath_cache``. If the
    variable ``GA_DETECTRON2_MIRROR`` is set to an address (``https://host/folder``), this takes
    the place of the published addresses' server; the path below it stays the same.

    What fails raises :class:`ModelZooError`, in one line.
    """

    PREFIX = "ga://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        file = find_file(path[len(self.PREFIX) :])
        local = get_cache_path(file, cache_dir)
        download(_find_address(file.url), local, file.sha256_prefix, force=force)
        return local

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb"):
            raise ModelZooError(f"{path} can only be read, not opened with mode '{mode}'")
        return open(self._get_local_path(path), mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        self._check_kwargs(kwargs)
        return path[len(self.PREFIX) :] in _FILES

    _isfile = _exists


def find_file(name: str) -> RemoteFile:
    """Return the published file of a name, without ``ga://``; ModelZooError if there is none."""
    if name not in _FILES:
        raise ModelZooError(f"no weights are published for '{name}', only for {', '.join(_FILES)}")
    return _FILES[name]


def get_cache_path(file: RemoteFile, cache_dir: str | None = None) -> str:
    """Return where a file is, or will be, on this machine."""
    if cache_dir is None:
        cache_dir = os.path.expanduser(os.getenv("FVCORE_CACHE", "~/.torch/iopath_cache"))
    return os.path.join(cache_dir, "ga_detectron2", os.path.basename(urlparse(file.url).path))


def _find_address(url: str) -> str:
    mirror = os.environ.get("GA_DETECTRON2_MIRROR", "").strip()
    if not mirror:
        return url
    if urlparse(mirror).scheme not in ("http", "https") or not urlparse(mirror).netloc:
        raise ModelZooError(
            f"the variable GA_DETECTRON2_MIRROR is '{mirror}', not an address as "
            "https://host/folder"
        )
    return mirror.rstrip("/") + urlparse(url).path


def register_handler() -> None:
    """Make detectron2's ``PathManager`` know ``ga://``. Importing the package does this."""
    PathManager.register_handler(ModelZooHandler(), allow_override=True)
