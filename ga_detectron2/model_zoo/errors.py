"""What goes wrong in the model zoo."""

from ..checkpoint.errors import CheckpointError


class ModelZooError(CheckpointError, RuntimeError):
    """A model is not in the zoo, or its file cannot be had. The message is one line.

    (A RuntimeError as in ``detectron2.model_zoo``.)
    """
