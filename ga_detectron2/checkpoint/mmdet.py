"""MMDetection's names of tensors, and ours.

The tables below have one line for each kind of tensor and are read in both directions. A name that
no line describes is refused, so that no tensor is left out, or put into a wrong place, silently.
Tensors stay as they are:

- MMDetection since version 2 counts the classes of its ROI heads as detectron2 does, background
  last.
- ``fc_reg`` has the layout (class, 4) with (dx, dy, dw, dh), and ``shared_fcs.0`` reads features
  flattened from (C, H, W), both as in detectron2.
- A frozen batch norm keeps weight, bias, mean and variance; ``num_batches_tracked`` is dropped.

A change of what published files become needs a higher ``_CONVERSION`` in ``model_zoo/handler.py``,
which keeps converted files.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from ga_detectron2.errors import CheckpointError

from .name_template import NameTemplate
from .reading import to_tensors

__all__ = ["convert_mmdet_names", "convert_mmdet_state_dict", "find_mmdet_names"]

# -- The tables --------------------------------------------------------------------------------
#
# A line has MMDetection's name within its part of a model, and our name in the whole model, or None
# for a tensor that is not needed. {field} is a value in _FIELDS, the same on both sides;
# {field+2} and {field*2} are that value plus, or times, two.

_Line = tuple[str, str | None]

_FIELDS = {
    "param": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",
    "stage": "[1-4]",
    "block": r"0|[1-9]\d*",
    "conv": "[1-3]",
    "tower": r"0|[1-9]\d*",
    "fc": r"0|[1-9]\d*",
    # Levels of a pyramid that starts at C2, or at C3; and the two levels above C5.
    "from_c2": "[0-3]",
    "from_c3": "[0-2]",
    "above_c5": "[34]",
}

_RESNET_NAMES: Sequence[_Line] = (
    ("conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
    ("bn1.{norm}", "backbone.bottom_up.stem.conv1.norm.{norm}"),
    ("bn1.num_batches_tracked", None),
    (
        "layer{stage}.{block}.conv{conv}.weight",
        "backbone.bottom_up.res{stage+1}.{block}.conv{conv}.weight",
    ),
    (
        "layer{stage}.{block}.bn{conv}.{norm}",
        "backbone.bottom_up.res{stage+1}.{block}.conv{conv}.norm.{norm}",
    ),
    ("layer{stage}.{block}.bn{conv}.num_batches_tracked", None),
    (
        "layer{stage}.{block}.downsample.0.weight",
        "backbone.bottom_up.res{stage+1}.{block}.shortcut.weight",
    ),
    (
        "layer{stage}.{block}.downsample.1.{norm}",
        "backbone.bottom_up.res{stage+1}.{block}.shortcut.norm.{norm}",
    ),
    ("layer{stage}.{block}.downsample.1.num_batches_tracked", None),
)
# The classifier of a network trained on ImageNet.
_CLASSIFIER: Sequence[_Line] = (("fc.{param}", None),)

_PYRAMID_FROM_C2: Sequence[_Line] = (
    ("lateral_convs.{from_c2}.conv.{param}", "backbone.fpn_lateral{from_c2+2}.{param}"),
    ("fpn_convs.{from_c2}.conv.{param}", "backbone.fpn_output{from_c2+2}.{param}"),
)
_PYRAMID_FROM_C3: Sequence[_Line] = (
    ("lateral_convs.{from_c3}.conv.{param}", "backbone.fpn_lateral{from_c3+3}.{param}"),
    ("fpn_convs.{from_c3}.conv.{param}", "backbone.fpn_output{from_c3+3}.{param}"),
    ("fpn_convs.{above_c5}.conv.{param}", "backbone.top_block.p{above_c5+3}.{param}"),
)
_RPN_HEAD: Sequence[_Line] = (
    ("rpn_conv.{param}", "proposal_generator.rpn_head.conv.{param}"),
    ("conv_loc.{param}", "proposal_generator.rpn_head.anchor_loc.{param}"),
    ("conv_shape.{param}", "proposal_generator.rpn_head.anchor_shape.{param}"),
    (
        "feature_adaption.conv_offset.weight",
        "proposal_generator.rpn_head.feature_adaption.offset.weight",
    ),
    (
        "feature_adaption.conv_adaption.weight",
        "proposal_generator.rpn_head.feature_adaption.conv.weight",
    ),
    ("conv_cls.{param}", "proposal_generator.rpn_head.objectness_logits.{param}"),
    ("conv_reg.{param}", "proposal_generator.rpn_head.anchor_deltas.{param}"),
)
_RETINANET_HEAD: Sequence[_Line] = (
    # In our towers, a ReLU follows each convolution.
    ("cls_convs.{tower}.conv.{param}", "head.cls_subnet.{tower*2}.{param}"),
    ("reg_convs.{tower}.conv.{param}", "head.bbox_subnet.{tower*2}.{param}"),
    ("conv_loc.{param}", "head.anchor_loc.{param}"),
    ("conv_shape.{param}", "head.anchor_shape.{param}"),
    ("feature_adaption_cls.conv_offset.weight", "head.feature_adaption_cls.offset.weight"),
    ("feature_adaption_cls.conv_adaption.weight", "head.feature_adaption_cls.conv.weight"),
    ("feature_adaption_reg.conv_offset.weight", "head.feature_adaption_bbox.offset.weight"),
    ("feature_adaption_reg.conv_adaption.weight", "head.feature_adaption_bbox.conv.weight"),
    ("retina_cls.{param}", "head.cls_score.{param}"),
    ("retina_reg.{param}", "head.bbox_pred.{param}"),
)
_ROI_HEAD: Sequence[_Line] = (
    ("shared_fcs.{fc}.{param}", "roi_heads.box_head.fc{fc+1}.{param}"),
    ("fc_cls.{param}", "roi_heads.box_predictor.cls_score.{param}"),
    ("fc_reg.{param}", "roi_heads.box_predictor.bbox_pred.{param}"),
)

# The two kinds of model, GA-RPN (with or without ROI heads) and GA-RetinaNet, with the prefixes of
# their parts. A standalone RPN's head is bbox_head. in MMDetection 3 and rpn_head. before.
_MODELS: Mapping[str, Sequence[tuple[tuple[str, ...], Sequence[_Line]]]] = {
    "GA-RPN": (
        (("backbone.",), _RESNET_NAMES),
        (("neck.",), _PYRAMID_FROM_C2),
        (("rpn_head.", "bbox_head."), _RPN_HEAD),
        (("roi_head.bbox_head.",), _ROI_HEAD),
    ),
    "GA-RetinaNet": (
        (("backbone.",), _RESNET_NAMES),
        (("neck.",), _PYRAMID_FROM_C3),
        (("bbox_head.",), _RETINANET_HEAD),
    ),
}
_PREFIX = re.compile(r"\A(?:backbone|neck|rpn_head|bbox_head|roi_head)\.")


# -- Public ------------------------------------------------------------------------------------


def convert_mmdet_state_dict(state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Rename the tensors of an MMDetection model to the names of this package's models.

    Args:
        state_dict: tensors or NumPy arrays under MMDetection's names, of a whole GA-RPN, GA-Faster
            R-CNN, GA-Fast R-CNN or GA-RetinaNet or of parts of one. All names may begin with
            ``module.``. Names may omit the part's prefix, as in ``rpn_conv.weight`` or
            ``layer1.0.conv1.weight``; ImageNet weights of a ResNet or ResNeXt (MMDetection's or
            torchvision's) are such a part. The content of a file, with ``state_dict`` beside other
            keys, is accepted as well.

    Returns:
        The same tensors under this package's names, in the same order, without those that do not
        affect results (``num_batches_tracked``, an ImageNet classifier).

    Raises:
        CheckpointError: a name is unknown, a part is ambiguous, two names belong to one tensor,
            or the argument is not a dictionary of tensors.
    """
    content: Any = state_dict
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = to_tensors(dict(content) if isinstance(content, Mapping) else content)
    return {ours: tensors[theirs] for theirs, ours in convert_mmdet_names(tensors).items()}


def convert_mmdet_names(names: Iterable[str]) -> dict[str, str]:
    """Our names by those of an MMDetection file, see :func:`convert_mmdet_state_dict`."""
    short = {name: name for name in names}
    while short and all(s.startswith("module.") for s in short.values()):
        short = {name: s[len("module.") :] for name, s in short.items()}

    with_prefix = any(_PREFIX.match(s) for s in short.values())
    # Our names by kind of model and name; None for names that this kind does not have.
    tried: dict[str, dict[str, str | None]] = {}
    for model in _MODELS:
        lines = _lines_of(model, with_prefix)
        tried[model] = {name: _convert_name(s, lines) for name, s in short.items()}
    fitting = [found for found in tried.values() if None not in found.values()]
    if not fitting:
        raise CheckpointError(_say_unknown(tried))
    for name in short:
        if len({found[name] for found in fitting}) > 1:
            places = " or ".join(f"'{tried[model][name]}' of a {model}" for model in _MODELS)
            raise CheckpointError(
                f"cannot tell whether tensor '{name}' is {places}: convert it together with the "
                "other tensors of its model"
            )
    result = {name: ours for name, ours in fitting[0].items() if ours and ours != _NOT_NEEDED}
    _check_distinct(result)
    return result


def find_mmdet_names(our_name: str) -> list[str]:
    """The names that a tensor of ours can have in an MMDetection file."""
    result: dict[str, None] = {}
    for model in _MODELS:
        for theirs, ours in _lines_of(model, with_prefix=True):
            values = ours.read(our_name) if ours is not None else None
            if values is not None:
                result[theirs.write(values)] = None
    return list(result)


# -- Details -----------------------------------------------------------------------------------

_NOT_NEEDED = "(not needed)"


@cache
def _lines_of(
    model: str, with_prefix: bool
) -> tuple[tuple[NameTemplate, NameTemplate | None], ...]:
    """All lines of a kind of model."""
    result = []
    for prefixes, lines in _MODELS[model]:
        if not with_prefix:
            prefixes = ("",)
            lines = (*lines, *_CLASSIFIER) if lines is _RESNET_NAMES else lines
        for prefix in prefixes:
            for theirs, ours in lines:
                ours_template = None if ours is None else NameTemplate(ours, _FIELDS)
                result.append((NameTemplate(prefix + theirs, _FIELDS), ours_template))
    return tuple(result)


def _convert_name(
    name: str, lines: Sequence[tuple[NameTemplate, NameTemplate | None]]
) -> str | None:
    for theirs, ours in lines:
        values = theirs.read(name)
        if values is not None:
            return _NOT_NEEDED if ours is None else ours.write(values)
    return None


def _say_unknown(tried: Mapping[str, Mapping[str, str | None]]) -> str:
    """Why names fit no kind of model."""
    names = list(next(iter(tried.values())))
    unknown = [name for name in names if all(found[name] is None for found in tried.values())]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        return (
            f"tensor '{unknown[0]}'{more} belongs neither to a guided-anchoring model of "
            "MMDetection nor to a ResNet trained on ImageNet"
        )
    misfits = {model: next(n for n in names if found[n] is None) for model, found in tried.items()}
    reasons = " and ".join(f"'{name}' is not part of a {model}" for model, name in misfits.items())
    return f"tensors of different models are mixed: {reasons}"


def _check_distinct(names: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for theirs, ours in names.items():
        if ours in seen:
            raise CheckpointError(f"tensors '{seen[ours]}' and '{theirs}' are both '{ours}'")
        seen[ours] = theirs
