"""Downloading a file whose SHA-256 is known, so that it is there whole or not at all."""

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import portalocker
from iopath.common.file_io import file_lock
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.errors import ModelZooError

__all__ = ["download", "matches"]

TIMEOUT = 30.0  # seconds without a byte
MAX_TRIES = 5
PAUSE = 1.0  # seconds before the second try; twice as long before each that follows
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


class _TryAgainError(Exception):
    """A try failed in a way in which the next may not."""


def download(url: str, path: str, sha256_prefix: str, *, force: bool = False) -> None:
    """Have a file at ``path``, downloaded unless it is there already.

    What has arrived is kept as ``path + ".part"`` when a connection is cut, and the next try, also
    one of a later process, goes on from there. ``path`` itself appears when the file is complete
    and has been verified. Several processes may ask for the same file at a time: one of them
    downloads it.

    Args:
        url: with http or https.
        path: of the local file. Its folder is created.
        sha256_prefix: hexadecimal digits with which the file's SHA-256 begins.
        force: download also if the file is there.

    Raises:
        ModelZooError: in one line, where the file cannot be had, is another one than expected, or
            cannot be written.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ModelZooError(f"{url}: not an http:// or https:// address")
    if not force and os.path.isfile(path) and matches(path, sha256_prefix):
        return
    with _lock(path):
        if os.path.isfile(path) and not force:
            if matches(path, sha256_prefix):  # another process was faster
                return
            logger.warning(f"{path} is not the file that {url} should be: downloading it anew")
        _download_verified(url, path, sha256_prefix)


def matches(path: str, sha256_prefix: str) -> bool:
    """Whether the SHA-256 of a file begins with these hexadecimal digits."""
    return _sha256(path).startswith(sha256_prefix.lower())


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _lock(path: str) -> Iterator[None]:
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        lock = file_lock(path)
        lock.acquire()
    except OSError as e:
        raise ModelZooError(
            f"cannot write to the cache folder {folder} ({e.strerror}); the variable FVCORE_CACHE "
            "can name another one"
        ) from e
    except portalocker.exceptions.LockException as e:
        raise ModelZooError(f"another process has held {path}.lock for too long") from e
    try:
        yield
    finally:
        lock.release()


def _download_verified(url: str, path: str, sha256_prefix: str) -> None:
    part = path + ".part"
    logger.info(f"Downloading {url} to {path}")
    # What an earlier try has left may belong to another version of the file: then once more.
    for is_last in (False, True):
        resumed = os.path.exists(part) and not is_last
        if is_last:
            _remove(part)
        resumed = _download_part(url, part) or resumed
        found = _sha256(part)
        if found.startswith(sha256_prefix.lower()):
            with _disk_errors(part):
                os.replace(part, path)
            logger.info(f"Downloaded {path}, {os.path.getsize(path)} bytes")
            return
        if not resumed:
            break
    _remove(part)
    raise ModelZooError(
        f"{url} is not the published file: its SHA-256 begins with {found[: len(sha256_prefix)]}, "
        f"not with {sha256_prefix}. It was not kept"
    )


def _download_part(url: str, part: str) -> bool:
    """Download into ``part``, beginning where it ends; return whether that was in several tries."""
    for attempt in range(1, MAX_TRIES + 1):
        try:
            _try_once(url, part)
            return attempt > 1
        except _TryAgainError as e:
            size = os.path.getsize(part) if os.path.exists(part) else 0
            if attempt == MAX_TRIES:
                kept = f"; {size} bytes are kept, from which the next call goes on" if size else ""
                raise ModelZooError(f"{url}: given up after {MAX_TRIES} tries ({e}){kept}") from e
            logger.warning(f"{url}: {e}; trying again from byte {size}")
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("not reached")


def _try_once(url: str, part: str) -> None:
    start = os.path.getsize(part) if os.path.exists(part) else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ga_detectron2"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and start:
            # There is no more than what is here: it is complete, or it is of another file.
            if e.headers.get("Content-Range") == f"bytes */{start}":
                return
            _remove(part)
            raise _TryAgainError("the server has a shorter file than what is here") from e
        if e.code in (408, 429) or e.code >= 500:
            raise _TryAgainError(f"the server says {e.code} {e.reason}") from e
        raise ModelZooError(
            f"{url}: the server says {e.code} {e.reason}. If the file has moved, the variable "
            "GA_DETECTRON2_MIRROR can name a server that has it"
        ) from e
    except (OSError, http.client.HTTPException) as e:
        raise _TryAgainError(_describe(e)) from e
    with response:
        if start and not _goes_on_at(response, start):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdigit() else None
        with _disk_errors(part):
            _check_space(part, None if total is None else total - start)
            with open(part, "ab" if start else "wb") as file:
                received = start + _copy(response, file, start, total)
                file.flush()
                os.fsync(file.fileno())
    if total is not None and received != total:
        raise _TryAgainError(f"the connection was cut after {received} of {total} bytes")


def _goes_on_at(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether a server sends the rest of a file, and not all of it."""
    if response.status != 206:
        return False
    content_range = response.headers.get("Content-Range", "")
    match = re.match(r"bytes (\d+)-", content_range)
    if match is None or int(match[1]) != start:
        raise _TryAgainError(f"the server sent '{content_range}', not from byte {start}")
    return True


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], start: int, total: int | None
) -> int:
    """Copy what arrives into a file; return the number of bytes."""
    received = 0
    name = os.path.basename(file.name)
    # No bar where nobody sees it (disable=None).
    with tqdm(
        initial=start, total=total, unit="B", unit_scale=True, desc=name, disable=None
    ) as bar:
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as e:
                raise _TryAgainError(_describe(e)) from e
            if not chunk:
                return received
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))


def _check_space(part: str, needed: int | None) -> None:
    folder = os.path.dirname(part)
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise ModelZooError(
            f"no space left in {folder}: {needed} bytes are needed, {free} are free; the variable "
            "FVCORE_CACHE can name another folder"
        )


@contextmanager
def _disk_errors(part: str) -> Iterator[None]:
    """Say in one line why a file could not be written, and free its space if the disk is full."""
    try:
        yield
    except OSError as e:
        if e.errno == errno.ENOSPC:
            _remove(part)
        raise ModelZooError(
            f"cannot write {part} ({e.strerror}); the variable FVCORE_CACHE can name another folder"
        ) from e


def _describe(e: Exception) -> str:
    reason = getattr(e, "reason", None) or e
    return f"{type(reason).__name__}: {reason}"


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)
