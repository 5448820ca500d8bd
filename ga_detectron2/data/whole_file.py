"""Files of which nobody sees a half."""

import os

__all__ = ["write_atomically"]


def write_atomically(path: str, content: bytes, sync: bool = True) -> None:
    """Write a file that appears under its name when it is complete.

    Args:
        path: of the file; its folder is there.
        content: all of it.
        sync: whether it is also to outlast a machine that fails, which takes some milliseconds.

    Raises:
        OSError: it cannot be written; with the path, which the error of a full disk lacks.
    """
    unfinished = f"{path}.{os.getpid()}.tmp"
    try:
        try:
            with open(unfinished, "wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            if os.path.exists(unfinished):
                os.remove(unfinished)
    except OSError as error:
        # Not the name that only this function knows.
        raise OSError(error.errno, error.strerror, path) from error
