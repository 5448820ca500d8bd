"""Converting a file of weights once and for all."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from ga_detectron2.atomic import atomic_open
from ga_detectron2.errors import CheckpointError

from .conversion import BOTTOM_UP, ConvertedWeights, check_fit, convert_weights
from .files import read_checkpoint_file

__all__ = ["convert_file"]

_DETECTRON2 = (
    "backbone.bottom_up.",
    "proposal_generator.",
    "roi_heads.",
    "head.",
    "stem.",
    "res2.",
)


def convert_file(
    source: str, target: str, model_state: Mapping[str, torch.Tensor] | None = None
) -> ConvertedWeights:
    """Write the weights of an MMDetection or torchvision file as a file of detectron2.

    What is written is loaded by detectron2's own ``DetectionCheckpointer``: a whole model by its
    names, a backbone alone by ``matching_heuristics``, as detectron2's ImageNet files are.

    Args:
        source: a path, or whatever detectron2's ``PathManager`` finds.
        target: path of the new file, ending in ``.pth``. It appears when it is complete; a file
            that was there before is replaced.
        model_state: if given, the weights must be all that a model with this ``state_dict()``
            needs, or all that its backbone needs.

    Returns:
        The weights that were written.

    Raises:
        CheckpointError: in one line, where the source cannot be used. No file is written then.
        OSError: where a file cannot be read or written. The target is then as it was.
    """
    if not target.endswith(".pth"):
        raise CheckpointError(f"{target}: the name of the new file must end in .pth")
    try:
        content = read_checkpoint_file(source)
        if _is_detectron2(content):
            raise CheckpointError("has detectron2's names already, there is nothing to convert")
        weights = convert_weights(content["model"])
        if model_state is not None:
            check_fit(weights, model_state)
    except CheckpointError as e:
        raise CheckpointError(f"{source}: {e}") from e
    _save(_as_detectron2(weights), target)
    return weights


def _is_detectron2(content: Mapping[str, Any]) -> bool:
    names = [str(name).removeprefix("module.") for name in content["model"]]
    return "__author__" in content or any(name.startswith(_DETECTRON2) for name in names)


def _as_detectron2(weights: ConvertedWeights) -> dict[str, Any]:
    author = "converted by ga_detectron2"
    if not weights.is_backbone:
        return {"model": weights.tensors, "__author__": author}
    tensors = {name.removeprefix(BOTTOM_UP): t for name, t in weights.tensors.items()}
    return {"model": tensors, "__author__": author, "matching_heuristics": True}


def _save(content: Mapping[str, Any], target: str) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        with atomic_open(target) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as e:  # torch.save raises a RuntimeError for a full disk
        reason = e.strerror if isinstance(e, OSError) else None
        raise OSError(f"{target} could not be written: {reason or str(e).splitlines()[0]}") from e
