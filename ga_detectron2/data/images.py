"""Image files as detectron2 reads them, with errors that name the file."""

from typing import Any

import numpy as np
from detectron2.data import DatasetMapper, detection_utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from ga_detectron2.errors import DataError

__all__ = ["ImageError", "NamingDatasetMapper", "read_image", "read_rgb"]


class ImageError(DataError):
    """An image file cannot be used. The message is one line and names the file."""


def read_image(path: str, channels: str) -> np.ndarray:
    """An image (H, W, C) uint8, turned as its EXIF data say.

    Args:
        path: whatever detectron2's ``PathManager`` finds.
        channels: as ``INPUT.FORMAT``, such as "BGR".

    Raises:
        ImageError: it is missing or damaged, or is grey with more than 8 bits.
    """
    try:
        _refuse_deep_colours(path)
        return np.asarray(detection_utils.read_image(path, format=channels))
    except Exception as error:  # Pillow fails on damaged files in any way.
        raise ImageError(f"{path}: {_reason(error)}") from error


def read_rgb(path: str) -> np.ndarray:
    """:func:`read_image`, (H, W, 3) RGB."""
    return read_image(path, "RGB")


class NamingDatasetMapper(DatasetMapper):
    """A :class:`DatasetMapper` whose errors name the file, which Pillow's need not."""

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """
        Args:
            dataset_dict: a record in detectron2's format.

        Raises:
            ImageError: its image is missing or damaged, is grey with more than 8 bits, or is not
                as large as the record says.
        """
        path = dataset_dict.get("file_name", "a record without file_name")
        try:
            _refuse_deep_colours(path)
            return super().__call__(dataset_dict)
        except Exception as error:
            raise ImageError(f"{path}: {_reason(error)}") from error


def _refuse_deep_colours(path: str) -> None:
    """Refuse grey of more than 8 bits: Pillow turns whatever is above 255 into 255, into white.

    Colours of 16 bits it reduces to their upper 8, and says that they had 8.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"has more than 8 bits a channel (Pillow's mode {image.mode}); convert it to 8"
            )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):  # It names an object of Python, not the file.
        return "it cannot be read as a picture (damaged, or of a format that Pillow does not know)"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"it cannot be read as a picture ({text})"
