"""From a file's tensors to those of a model, with nothing lost on the way."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ga_detectron2.errors import CheckpointError

from .mmdet import convert_mmdet_names, convert_mmdet_state_dict, find_mmdet_names

__all__ = [
    "BOTTOM_UP",
    "ConvertedWeights",
    "check_complete",
    "check_fit",
    "convert_weights",
    "is_backbone_name",
    "is_needed",
]

BOTTOM_UP = "backbone.bottom_up."
_BACKBONE = re.compile(r"\A(?:backbone\.(?:bottom_up\.)?(?:stem|res[2-5])|roi_heads\.res5)\.")
# Tensors of a model that a file may lack: no result depends on them, they follow from the
# configuration, or (the offsets of a deformable backbone) begin at zero on purpose.
_NOT_NEEDED = re.compile(
    r"\A(?:.*\.num_batches_tracked|pixel_mean|pixel_std|.*\.cell_anchors\.\d+"
    r"|.*\.conv2_offset\.(?:weight|bias))\Z"
)

# What batch norm learns without a gradient.
_STATISTIC = re.compile(r"\A(?:.*\.)?running_(?:mean|var)\Z")


class ConvertedWeights(NamedTuple):
    """The tensors of a file that has other names than ours."""

    tensors: dict[str, torch.Tensor]
    """By our names in the whole model."""
    names: dict[str, str]
    """The names in the file, by ours."""
    is_backbone: bool
    """Whether they are only a backbone's, as those of a network trained on ImageNet."""


def convert_weights(tensors: Mapping[str, Any]) -> ConvertedWeights:
    """Convert the tensors of an MMDetection or torchvision file, by their names in it.

    Raises:
        CheckpointError: if the names are no such file's, or it has no tensor that is needed.
    """
    converted = convert_mmdet_state_dict(tensors)
    if not converted:
        raise CheckpointError("holds no tensor that a model needs")
    names = {ours: theirs for theirs, ours in convert_mmdet_names(tensors).items()}
    return ConvertedWeights(converted, names, all(n.startswith(BOTTOM_UP) for n in names))


def check_fit(weights: ConvertedWeights, model_state: Mapping[str, torch.Tensor]) -> None:
    """Check that each tensor has its place in a model, and each place its tensor.

    Args:
        weights: those of a whole model, or of a backbone alone.
        model_state: the model's ``state_dict()``, of which only the shapes count.

    Raises:
        CheckpointError: naming the first tensor that does not fit, by both its names, and how many
            more there are.
    """
    problems = []
    for ours, tensor in weights.tensors.items():
        both = f"tensor '{weights.names[ours]}' ('{ours}' in detectron2)"
        if ours not in model_state:
            problems.append(f"{both} has no place in this model")
        elif tensor.shape != model_state[ours].shape:
            shape, expected = tuple(tensor.shape), tuple(model_state[ours].shape)
            problems.append(f"{both} has the shape {shape}, but in this model {expected}")
    for ours in model_state:
        if ours in weights.tensors or not is_needed(ours):
            continue
        if not weights.is_backbone or is_backbone_name(ours):
            theirs = _say_theirs(ours, weights)
            problems.append(f"there is no tensor{theirs} for '{ours}' of this model")
    if problems:
        more = f" (and {len(problems) - 1} more do not fit)" if problems[1:] else ""
        raise CheckpointError(problems[0] + more)


def check_complete(
    model: nn.Module,
    missing: Iterable[str],
    shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Check that nothing that results depend on was left at its initial value.

    Args:
        model: after a file was loaded.
        missing: names of the model that the file lacks.
        shapes: of tensors that were not loaded: name, shape in the file and in the model.

    Raises:
        CheckpointError: naming the first such tensor, and how many more there are.
    """
    problems = [
        f"tensor '{name}' has the shape {theirs}, but in this model {ours}"
        for name, theirs, ours in shapes
    ]
    absent = set(missing) - {name for name, _, _ in shapes}
    state = model.state_dict(keep_vars=True)
    # A tensor with two names is in the file if one of them is.
    present = {id(tensor) for name, tensor in state.items() if name not in absent}
    for name, tensor in state.items():
        is_learned = isinstance(tensor, nn.Parameter) or _STATISTIC.match(name)
        if name in absent and is_learned and is_needed(name) and id(tensor) not in present:
            problems.append(f"there is no tensor for '{name}' of this model")
    if problems:
        more = f" (and {len(problems) - 1} more do not fit)" if problems[1:] else ""
        raise CheckpointError(
            f"{problems[0]}{more}; these weights are of another model. Use the configuration that "
            "they were trained with (config.yaml beside them)"
        )


def is_backbone_name(name: str) -> bool:
    """Whether a tensor of a model belongs to a ResNet's part that is trained on ImageNet."""
    return _BACKBONE.match(name) is not None


def is_needed(name: str) -> bool:
    """Whether a model would be another one without this tensor of a file."""
    return _NOT_NEEDED.match(name) is None


def _say_theirs(ours: str, weights: ConvertedWeights) -> str:
    """The name that a missing tensor would have in the file."""
    present = set(weights.names.values())
    parts = {name.split(".")[0] for name in present}
    theirs = [name for name in find_mmdet_names(ours) if name not in present]
    theirs = [name for name in theirs if name.split(".")[0] in parts] or theirs
    return f" {' or '.join(repr(name) for name in theirs)}" if theirs else ""
