"""Whether the image files are there, can be read, and have the size that the JSON says."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from .coco_file import CocoFile
from .findings import Findings

__all__ = ["HOW", "check_image_files"]

HOW = ("full", "header", "none")
"""How closely files are looked at: decoded; size and kind alone; not at all."""

_ORIENTATION_TAG = 0x0112


def check_image_files(
    data: CocoFile,
    findings: Findings,
    how: str = "full",
    workers: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Add what is wrong with image files to ``findings``.

    Args:
        data: names and sizes of the images.
        how: one of ``HOW``.
        workers: threads; without it, one a core, eight at most.
        progress: is given an iterable over the images' results, such as ``tqdm`` wraps.
    """
    assert how in HOW
    if how == "none":
        return
    look = _full_size if how == "full" else _header_size
    numbers = range(len(data.images))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for fault in progress(pool.map(lambda i: _fault(data, i, look), numbers)):
            if fault is not None:
                kind, case = fault
                findings.add(kind, [case])


def _fault(
    data: CocoFile, index: int, look: Callable[[str], tuple[int, int]]
) -> tuple[str, str] | None:
    """Kind and words of what is wrong with an image."""
    name, path = data.images[index]["file_name"], data.path_of(index)
    if not os.path.isfile(path):
        return "image_missing", name + _where_it_may_be(data.image_root, name)
    try:
        found = look(path)
    except Exception as error:  # Pillow fails on damaged files in any way.
        reason = " ".join(str(error).split()).replace(path, "it") or type(error).__name__
        return "image_unreadable", f"{name}: {reason}"
    width, height = data.image_sizes[index].astype(int).tolist()
    if found == (width, height):
        return None
    hint = ""
    if found == (height, width):
        hint = " (sides swapped: the JSON may not have heeded the file's EXIF orientation)"
    return (
        "image_size_differs",
        f"{name}: {found[0]}x{found[1]}, in the JSON {width}x{height}{hint}",
    )


def _full_size(path: str) -> tuple[int, int]:
    """Width and height of the image as detectron2 reads it, all of it."""
    image: np.ndarray = read_image(path)
    return image.shape[1], image.shape[0]


def _header_size(path: str) -> tuple[int, int]:
    """The same by what the file says of itself."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _where_it_may_be(folder: str, name: str) -> str:
    """A hint for the usual mistakes in the names of files."""
    base = name.replace("\\", "/").rpartition("/")[2]
    if base != name and os.path.isfile(os.path.join(folder, base)):
        return f" (the folder has {base}: file_name should start from the folder)"
    return ""
