"""What goes wrong with a file of weights."""


class CheckpointError(ValueError):
    """A file of weights, or a tensor in it, cannot be used. The message is one line."""
