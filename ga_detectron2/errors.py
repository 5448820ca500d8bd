"""Errors that users can correct. Tools print them in one line, without a traceback."""

__all__ = ["CheckpointError", "ConfigError", "DataError", "GAError", "ModelZooError", "message_of"]


def message_of(error: str | Exception) -> str:
    """Message of an error; ``str()`` of a KeyError would put it in quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


class GAError(ValueError):
    """Base class. The message is one line: what is wrong, where, and what to do."""

    def __init__(self, reason: str | Exception):
        message = message_of(reason)
        # A DataLoader raises a worker's error again with the worker's traceback as its message.
        if message.startswith("Caught "):
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.split()))


class ConfigError(GAError):
    """A run cannot be set up. The message names the key or argument."""


class DataError(GAError):
    """Data that cannot be used. The message names the file or dataset."""


class CheckpointError(GAError):
    """A file of weights, or a tensor in it, cannot be used."""


class ModelZooError(CheckpointError, RuntimeError):
    """A model is not in the zoo, or its file cannot be obtained.

    Also a RuntimeError, because ``detectron2.model_zoo`` raises that.
    """
