"""What a user can put right in a configuration or on the command line."""


class ConfigError(ValueError):
    """A run cannot be set up. The message is one line and names the key or argument."""

    def __init__(self, reason: str | Exception):
        # str() of a KeyError would put its message in quotes.
        message = reason.args[0] if isinstance(reason, KeyError) and reason.args else reason
        super().__init__(" ".join(str(message).split()))
