"""Image files as detectron2 reads them, with errors that name the file."""

import os
from typing import Any

import numpy as np
from detectron2.data import DatasetMapper, detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ga_detectron2.errors import DataError

__all__ = ["NamingDatasetMapper", "printable", "read_image", "read_rgb"]


def read_image(path: str, channels: str) -> np.ndarray:
    """An image (H, W, C) uint8, rotated according to its EXIF orientation.

    Args:
        path: any path of detectron2's ``PathManager``.
        channels: channel order as in ``INPUT.FORMAT``, such as "BGR".

    Raises:
        DataError: the file does not exist, cannot be decoded, or is greyscale with more than 8
            bits.
    """
    try:
        _refuse_deep_grey(path)
        return np.asarray(detection_utils.read_image(path, format=channels))
    except Exception as error:  # Pillow raises errors of many types for damaged files.
        raise DataError(f"{path}: {_reason(error)}") from error


def read_rgb(path: str) -> np.ndarray:
    """:func:`read_image`, (H, W, 3) RGB."""
    return read_image(path, "RGB")


class NamingDatasetMapper(DatasetMapper):
    """A :class:`DatasetMapper` whose errors name the image file."""

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """
        Args:
            dataset_dict: a record in detectron2's format.

        Raises:
            DataError: the image cannot be read or differs in size from the record, or an
                annotation cannot be used.
        """
        path = dataset_dict.get("file_name", "a record without file_name")
        try:
            _refuse_deep_grey(path)
            return super().__call__(dataset_dict)
        except Exception as error:
            read_image(path, self.image_format)  # Raises if the image is to blame.
            text = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{path}: {text}") from error


def printable(path: str) -> str:
    """A path for messages and logs; bytes that are not UTF-8 become ``\\\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _refuse_deep_grey(path: str) -> None:
    """Refuse greyscale of more than 8 bits, which Pillow clips to 255.

    Pillow reduces colours of 16 bits to their upper 8.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"has more than 8 bits per channel (Pillow's mode {image.mode}); convert it to 8"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):  # It names a Python object, not the file.
        return "the image cannot be decoded (damaged, or a format that Pillow does not know)"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the image cannot be decoded ({text})"
