"""``ga://NAME``: published weights with detectron2's names, or timm's for its backbones."""

import hashlib
import http.client
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlparse

import portalocker
import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock

from ga_detectron2.checkpoint.conversion import read_converted, save_content
from ga_detectron2.errors import ModelZooError

from .packaged import PACKAGED_BACKBONES, PackagedFile
from .published import IMAGENET_BACKBONES, PUBLISHED_MODELS, RemoteFile

__all__ = ["ModelZooHandler", "download", "find_file", "get_cache_path", "register_handler"]

_FILES = {
    **{
        model.name: RemoteFile(model.weights_url, model.sha256_prefix) for model in PUBLISHED_MODELS
    },
    **IMAGENET_BACKBONES,
}
_CONVERSION = 1  # to be increased when converted files change

logger = logging.getLogger(__name__)


class ModelZooHandler(PathHandler):
    """Resolves ``ga://ga_faster_R_101`` to a local file that detectron2 can load.

    The published file is downloaded once, into the folder ``ga_detectron2`` of iopath's cache
    (``$FVCORE_CACHE`` or ``~/.torch/iopath_cache``), verified by its SHA-256, and converted beside
    it. The variable ``GA_DETECTRON2_MIRROR`` (``https://host/folder``) replaces the server of the
    published addresses; the path below it stays the same.

    ``ga://efficientnet_lite0`` is in a pip package, so needs no network. It has timm's names, and
    is meant for ``MODEL.WEIGHTS`` or ``MODEL.TIMM.CHECKPOINT``.

    Raises:
        ModelZooError: there is no such model, or its file cannot be obtained.
    """

    PREFIX = "ga://"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.PREFIX]

    def _get_local_path(
        self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any
    ) -> str:
        self._check_kwargs(kwargs)
        name = path[len(self.PREFIX) :]
        if name in PACKAGED_BACKBONES:
            return _convert_packaged(PACKAGED_BACKBONES[name], force, cache_dir)
        file = find_file(name)
        published = get_cache_path(file, cache_dir)
        converted = f"{published.removesuffix('.pth')}.detectron2-v{_CONVERSION}.pth"
        if force or not _is_current(converted, published):
            with _locked(published):
                if force or not _is_current(converted, published):
                    download(_address_of(file), published, file.sha256_prefix, force=force)
                    save_content(read_converted(published), converted)
                    changed = os.stat(published).st_mtime_ns
                    os.utime(converted, ns=(changed, changed))
        return converted

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        self._check_kwargs(kwargs)
        if mode not in ("r", "rb"):
            raise ModelZooError(f"{path} can only be read, not opened with mode '{mode}'")
        return open(self._get_local_path(path), mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        self._check_kwargs(kwargs)
        return path[len(self.PREFIX) :] in (_FILES | PACKAGED_BACKBONES)

    _isfile = _exists


def find_file(name: str) -> RemoteFile:
    """The published file of a name, without ``ga://``.

    Raises:
        ModelZooError: there is none.
    """
    if name not in _FILES:
        known = ", ".join([*_FILES, *PACKAGED_BACKBONES])
        raise ModelZooError(f"no weights are published for '{name}', only for {known}")
    return _FILES[name]


def get_cache_path(file: RemoteFile, cache_dir: str | None = None) -> str:
    """The local path of a published file, downloaded or not."""
    return _in_cache(urlparse(file.url).path, cache_dir)


def _in_cache(path: str, cache_dir: str | None) -> str:
    folder = cache_dir or os.getenv("FVCORE_CACHE") or "~/.torch/iopath_cache"
    return os.path.join(os.path.expanduser(folder), "ga_detectron2", os.path.basename(path))


def _convert_packaged(file: PackagedFile, force: bool, cache_dir: str | None) -> str:
    """The local path of a packaged file with timm's names."""
    # The name has a hash of the contents.
    converted = f"{_in_cache(file.path, cache_dir).removesuffix('.pth')}.timm-v{_CONVERSION}.pth"
    if force or not os.path.isfile(converted):
        with _locked(converted):
            save_content(file.read(), converted)
    return converted


def download(url: str, path: str, sha256_prefix: str, *, force: bool = False) -> None:
    """Download a file, unless it is there already.

    Args:
        url: http or https.
        path: local file, in a folder that exists.
        sha256_prefix: hexadecimal digits with which the SHA-256 of the file begins.
        force: download also if the file is there.

    Raises:
        ModelZooError: the file cannot be downloaded or written, or has another SHA-256.
    """
    if not force and os.path.isfile(path) and _sha256(path).startswith(sha256_prefix):
        return
    logger.info(f"Downloading {url} to {path}")
    try:
        torch.hub.download_url_to_file(url, path, sha256_prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise ModelZooError(
            f"{url}: cannot be downloaded ({getattr(error, 'reason', None) or error}). Try again, "
            f"set GA_DETECTRON2_MIRROR to a server that has the file, or save it as {path}"
        ) from error


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _is_current(converted: str, published: str) -> bool:
    """Whether a converted file is that of the download, whose time it has."""
    try:
        return os.stat(converted).st_mtime_ns == os.stat(published).st_mtime_ns
    except OSError:
        return False


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep other processes from downloading and converting the same file."""
    try:
        with file_lock(path):
            yield
    except OSError as error:
        raise ModelZooError(
            f"cannot write to the cache folder {os.path.dirname(path)} ({error.strerror}); set "
            "FVCORE_CACHE to another folder"
        ) from error
    except portalocker.exceptions.LockException as error:
        raise ModelZooError(
            f"{path}.lock is held by another process; wait for it to finish"
        ) from error


def _address_of(file: RemoteFile) -> str:
    mirror = os.environ.get("GA_DETECTRON2_MIRROR", "").strip()
    if not mirror:
        return file.url
    if urlparse(mirror).scheme not in ("http", "https") or not urlparse(mirror).netloc:
        raise ModelZooError(
            f"GA_DETECTRON2_MIRROR is '{mirror}', not an address such as https://host/folder"
        )
    return mirror.rstrip("/") + urlparse(file.url).path


def register_handler() -> None:
    """Register ``ga://`` with detectron2's ``PathManager``."""
    PathManager.register_handler(ModelZooHandler(), allow_override=True)
