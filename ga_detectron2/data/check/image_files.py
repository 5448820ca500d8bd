"""Existence, readability and size of image files."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import Findings
from ga_detectron2.data.images import read_rgb

__all__ = ["HOW", "check_image_files"]

HOW = ("full", "header", "none")
"""Extent of the check: decode images; read their headers only; skip them."""

_ORIENTATION_TAG = 0x0112


def check_image_files(
    data: CocoFile,
    findings: Findings,
    how: str = "full",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Add what is wrong with image files to ``findings``.

    Args:
        data: names and sizes of the images.
        findings: receives the faults.
        how: one of ``HOW``.
        progress: wraps an iterable over the images, such as ``tqdm``.
    """
    if how == "none":
        return
    read_size = _decoded_size if how == "full" else _header_size
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        faults = pool.map(lambda i: _fault(data, i, read_size), range(len(data.images)))
        for fault in filter(None, progress(faults)):
            findings.add(fault[0], [fault[1]])


def _fault(
    data: CocoFile, index: int, read_size: Callable[[str], tuple[int, int]]
) -> tuple[str, str] | None:
    """Kind and description of what is wrong with an image."""
    image, path = data.images[index], data.path_of(index)
    name, expected = image["file_name"], (image["width"], image["height"])
    if not os.path.isfile(path):
        return "image_missing", name
    try:
        size = read_size(path)
    except Exception as error:  # Pillow raises errors of many types for damaged files.
        reason = " ".join(str(error).split()).removeprefix(f"{path}: ").replace(path, "it")
        return "image_unreadable", f"{name}: {reason}"
    if size == expected:
        return None
    hint = " (swapped: the JSON may ignore the EXIF orientation)" if size == expected[::-1] else ""
    found, wanted = (f"{width}x{height}" for width, height in (size, expected))
    return "image_size_differs", f"{name}: {found}, in the JSON {wanted}{hint}"


def _decoded_size(path: str) -> tuple[int, int]:
    """Width and height of the image as detectron2 decodes it."""
    height, width = read_rgb(path).shape[:2]
    return width, height


def _header_size(path: str) -> tuple[int, int]:
    """The same, from the header of the file."""
    with Image.open(path) as image:
        width, height = image.size
        rotated = image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    return (height, width) if rotated else (width, height)
