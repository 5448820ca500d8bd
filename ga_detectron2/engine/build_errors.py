"""Errors of detectron2's builders as errors of the configuration."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ga_detectron2.errors import ConfigError, GAError, message_of

__all__ = ["config_errors_of", "describe_error"]


@contextmanager
def config_errors_of(what: str) -> Iterator[None]:
    """Turn any exception into a :class:`ConfigError` of one line.

    Args:
        what: subject of the message, such as "the model".
    """
    try:
        yield
    except GAError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} cannot be built: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """Message of an error, with its kind or line of code if the message alone says little."""
    words = message_of(error)
    if not words:  # an assertion, say
        return f"{type(error).__name__} in '{traceback.extract_tb(error.__traceback__)[-1].line}'"
    if isinstance(error, AssertionError | ValueError):
        return words
    return f"{type(error).__name__}: {words}"
