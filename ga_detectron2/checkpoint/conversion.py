"""Foreign weights in detectron2's format, and the rule for tensors that a model may lack."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ga_detectron2.atomic import atomic_open
from ga_detectron2.errors import CheckpointError

from .mmdet import convert_mmdet_state_dict, find_mmdet_names
from .reading import read_checkpoint

__all__ = ["AUTHOR", "check_fit", "convert_weights", "read_converted", "save_content"]

AUTHOR = "ga_detectron2"
"""``__author__`` of converted weights."""

_BOTTOM_UP = "backbone.bottom_up."
_BACKBONE_TENSOR = re.compile(
    r"(?:backbone\.(?:bottom_up\.)?(?:stem|res[2-5]|model)|roi_heads\.res5)\."
)
_BLOCK = re.compile(r"(?:.*\.)?(res[2-5])\.(\d+)\.")
# Tensors that do not affect results, or are derived from the config, and the offsets of a
# deformable backbone, which start at zero.
_OPTIONAL = re.compile(
    r"(?:.*\.num_batches_tracked|pixel_mean|pixel_std|.*\.cell_anchors\.\d+"
    r"|.*\.conv2_offset\.(?:weight|bias))"
)


def convert_weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the tensors of an MMDetection or torchvision file to a detectron2 file's content.

    Returns:
        Tensors under ``model``, ready for detectron2's ``DetectionCheckpointer``. A backbone alone
        comes with ``matching_heuristics``, as in detectron2's ImageNet files.

    Raises:
        CheckpointError: a name is unknown, or no tensor is needed.
    """
    model = convert_mmdet_state_dict(tensors)
    if not model:
        raise CheckpointError("holds no tensor that a model needs")
    content: dict[str, Any] = {"model": model, "__author__": AUTHOR}
    if all(name.startswith(_BOTTOM_UP) for name in model):
        content["model"] = {name.removeprefix(_BOTTOM_UP): v for name, v in model.items()}
        content["matching_heuristics"] = True
    return content


def read_converted(path: str) -> dict[str, Any]:
    """Read an MMDetection, torchvision or converted file as the content of a detectron2 file.

    Args:
        path: see :func:`read_checkpoint`.

    Raises:
        CheckpointError: the file cannot be used.
    """
    try:
        content = read_checkpoint(path)
        is_converted = content.get("__author__") == AUTHOR
        return content if is_converted else convert_weights(content["model"])
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error


def save_content(content: Mapping[str, Any], path: str) -> None:
    """``torch.save`` to a local file that appears when it is complete.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    try:
        with atomic_open(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch's own, after that of the file
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__cause__ or reason.__context__
        if reason is None:
            raise
        raise OSError(reason.errno, reason.strerror, path) from error


def check_fit(
    model_names: Iterable[str], incompatible: Any, *, whole: bool, strict: bool = False
) -> None:
    """Decides which model tensors may be missing from the file, and checks a model after loading.

    A file may lack :data:`_OPTIONAL` tensors, and unless ``whole`` all that do not belong to the
    backbone (a ResNet, or timm's). It may hold more than the model, but not the blocks of a deeper
    ResNet.

    Args:
        model_names: names in the model's ``state_dict()``.
        incompatible: result of ``Checkpointer._load_model``.
        whole: require a value for every tensor that is not optional.
        strict: require a place in the model for every tensor of the file.

    Raises:
        CheckpointError: names the first tensor that does not fit, and how many others there are.
    """

    def is_needed(name: str) -> bool:
        return not _OPTIONAL.fullmatch(name) and (whole or bool(_BACKBONE_TENSOR.match(name)))

    problems = [
        f"tensor '{name}' has the shape {theirs}, but in this model {ours}"
        for name, theirs, ours in incompatible.incorrect_shapes
        if is_needed(name)
    ]
    misshapen = {name for name, _, _ in incompatible.incorrect_shapes}
    for name in incompatible.missing_keys:
        if is_needed(name) and name not in misshapen:
            theirs = " or ".join(f"'{n}'" for n in find_mmdet_names(name))
            note = f" ({theirs} in MMDetection)" if theirs else ""
            problems.append(f"there is no tensor for '{name}'{note} of this model")
    blocks = {match.groups() for name in model_names if (match := _BLOCK.match(name))}
    stages = {stage for stage, _ in blocks}
    for name in incompatible.unexpected_keys:
        match = _BLOCK.match(name)
        is_deeper = match and match[1] in stages and match.groups() not in blocks
        if strict or is_deeper:
            problems.append(f"tensor '{name}' has no place in this model")
    if problems:
        more = f" (and {len(problems) - 1} more do not fit)" if problems[1:] else ""
        where = (
            ", or tools/convert_checkpoint.py to train from the part that fits"
            if strict
            else " (config.yaml beside them)"
        )
        raise CheckpointError(
            f"{problems[0]}{more}; these weights belong to another model. Use the configuration "
            f"that they were trained with{where}"
        )
