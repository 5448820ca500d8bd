"""Where a tool is to write: what cannot be written is told before there is anything to write."""

import os
import tempfile

from ga_detectron2.errors import ConfigError

__all__ = ["check_output_file", "check_output_folder"]


def check_output_file(option: str, path: str) -> None:
    """Refuse the path of a file that cannot be written. Nothing is left at it, or made.

    Args:
        option: that the path was given by, to name it, such as ``--json``.
        path: of a file that is there or not, in a folder that is there or can be made.

    Raises:
        ConfigError: with the option, the path, and the reason.
    """
    if os.path.isdir(path) or path.endswith(os.sep):
        raise ConfigError(f"{option}: {path} is a folder, not the name of a file")
    if not os.path.exists(path):
        _check_folder(option, path, os.path.dirname(os.path.abspath(path)))
    elif not os.access(path, os.W_OK):
        raise ConfigError(f"{option}: {path} cannot be written (Permission denied)")


def check_output_folder(option: str, path: str) -> None:
    """As :func:`check_output_file`, for a folder in which files are to be written."""
    _check_folder(option, path, os.path.abspath(path))


def _check_folder(option: str, path: str, folder: str) -> None:
    # What is missing is made by whoever writes; a run that is refused leaves no empty folders.
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if os.path.exists(folder) and not os.path.isdir(folder):
        where = "it " if os.path.abspath(path) == folder else f"{folder} "
        raise ConfigError(f"{option}: {path} cannot be written: {where}is a file, not a folder")
    try:
        # To try is the only way to know: root may do what the disk, full or read-only, does not.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        where = "" if os.path.abspath(path) == folder else f" in {folder}"
        raise ConfigError(
            f"{option}: {path} cannot be written: no file can be made{where or ' there'} "
            f"({error.strerror})"
        ) from error
