"""What a dictionary of tensors must be, whoever wrote it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ga_detectron2.errors import CheckpointError

__all__ = ["check_tensors"]


def check_tensors(content: Mapping[Any, Any]) -> None:
    """Refuse what is not tensors, or numpy arrays that torch can take, by their names.

    Raises:
        CheckpointError: with the name.
    """
    for name, value in content.items():
        if not isinstance(name, str):
            raise CheckpointError(f"expected a dictionary of tensors by names, but has {name!r}")
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise CheckpointError(
                f"expected a dictionary of tensors, but '{name}' is of type {type(value).__name__}"
            )
        if isinstance(value, np.ndarray):
            try:
                torch.from_numpy(np.zeros(0, value.dtype))
            except TypeError as error:
                raise CheckpointError(
                    f"'{name}' has numbers of type {value.dtype}, which torch does not have"
                ) from error
