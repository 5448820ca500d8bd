"""Names of files as text: those of other systems' archives may be no UTF-8."""

import os

__all__ = ["shown"]


def shown(path: str) -> str:
    """A path that can be printed and logged; bytes that are no text become ``\\\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
