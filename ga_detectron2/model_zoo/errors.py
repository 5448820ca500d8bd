"""What goes wrong in the model zoo."""


class ModelZooError(RuntimeError):
    """A model is not in the zoo, or its file cannot be had. The message is one line."""
