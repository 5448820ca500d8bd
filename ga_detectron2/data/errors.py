"""What is wrong with data."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that cannot be used. The message is one line that names the file.

    It stays so when torch raises it once more for a process that loads data, with that process's
    traceback for a message.
    """

    def __init__(self, message: str):
        if message.startswith("Caught "):
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.split()))
