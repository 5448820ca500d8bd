"""Refuses configurations that cannot work, when the model is built, with the key's name."""

import math
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm

from .losses import BOX_LOSS_TYPES

_GA = "MODEL.GUIDED_ANCHOR"


def check_rpn_config(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
    """Check what :class:`GuidedAnchorRPN` reads.

    Args:
        cfg: a detectron2 CfgNode.
        input_shape: of the backbone's levels, by name.

    Raises:
        ValueError: with the key's name, its value, and what would be right.
    """
    rpn = cfg.MODEL.RPN
    _check_guided_anchor(cfg)
    strides = _check_levels("MODEL.RPN.IN_FEATURES", rpn.IN_FEATURES, input_shape)
    base_scale = cfg.MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE
    if len(strides) > 1 and strides[0] >= 8 and strides[-1] >= 128 and base_scale >= 8:
        raise ValueError(
            f"MODEL.RPN.IN_FEATURES {list(rpn.IN_FEATURES)} are RetinaNet's levels, of strides "
            f"{strides}: with {_GA}.OCTAVE_BASE_SCALE {base_scale} no square is smaller than "
            f"{strides[0] * base_scale} pixels. Use the RPN's, ['p2', 'p3', 'p4', 'p5', 'p6'] of "
            "build_resnet_fpn_backbone, or a base scale of 4"
        )
    if rpn.HEAD_NAME not in ("StandardRPNHead", "GuidedAnchorRPNHead"):
        raise ValueError(
            f"MODEL.RPN.HEAD_NAME {rpn.HEAD_NAME!r} does not go with GuidedAnchorRPN, which brings "
            "its own head: leave the key at its default, 'StandardRPNHead'"
        )
    _check_channels("MODEL.RPN.IN_FEATURES", [input_shape[f].channels for f in rpn.IN_FEATURES])
    dims = rpn.CONV_DIMS
    if not _is_list(dims) or not dims or not all(_is_whole(c) and (c == -1 or c > 0) for c in dims):
        raise ValueError(
            f"MODEL.RPN.CONV_DIMS {dims} must name at least one number of channels, each positive "
            "or -1 (as many as before)"
        )
    channels = [input_shape[rpn.IN_FEATURES[0]].channels, *dims]
    _check_deform_groups(cfg, [c for c in channels if c != -1][-1])
    _check_thresholds("MODEL.RPN", rpn.IOU_THRESHOLDS, rpn.IOU_LABELS)
    _check_weights("MODEL.RPN.BBOX_REG_WEIGHTS", rpn.BBOX_REG_WEIGHTS, 4)
    _check_choice("MODEL.RPN.BBOX_REG_LOSS_TYPE", rpn.BBOX_REG_LOSS_TYPE, BOX_LOSS_TYPES)
    _check_at_least("MODEL.RPN.SMOOTH_L1_BETA", rpn.SMOOTH_L1_BETA, 0)
    _check_at_least("MODEL.RPN.LOSS_WEIGHT", rpn.LOSS_WEIGHT, 0)
    _check_at_least("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", rpn.BBOX_REG_LOSS_WEIGHT, 0)
    for key in (
        "BATCH_SIZE_PER_IMAGE",
        "PRE_NMS_TOPK_TRAIN",
        "PRE_NMS_TOPK_TEST",
        "POST_NMS_TOPK_TRAIN",
        "POST_NMS_TOPK_TEST",
    ):
        _check_count(f"MODEL.RPN.{key}", rpn[key])
    _check_share("MODEL.RPN.POSITIVE_FRACTION", rpn.POSITIVE_FRACTION)
    _check_share("MODEL.RPN.NMS_THRESH", rpn.NMS_THRESH)
    if not _is_number(rpn.BOUNDARY_THRESH) or not rpn.BOUNDARY_THRESH < 0:
        raise ValueError(
            f"MODEL.RPN.BOUNDARY_THRESH {rpn.BOUNDARY_THRESH} is not for guided anchors, which are "
            "centred on cells within the image: leave it at -1"
        )


def check_retinanet_config(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
    """Check what :class:`GARetinaNet` reads, like :func:`check_rpn_config`."""
    retinanet = cfg.MODEL.RETINANET
    _check_guided_anchor(cfg)
    _check_levels("MODEL.RETINANET.IN_FEATURES", retinanet.IN_FEATURES, input_shape)
    channels = [input_shape[f].channels for f in retinanet.IN_FEATURES]
    _check_channels("MODEL.RETINANET.IN_FEATURES", channels)
    _check_deform_groups(cfg, channels[0])
    _check_thresholds("MODEL.RETINANET", retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS)
    _check_weights("MODEL.RETINANET.BBOX_REG_WEIGHTS", retinanet.BBOX_REG_WEIGHTS, 4)
    _check_choice(
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", retinanet.BBOX_REG_LOSS_TYPE, BOX_LOSS_TYPES
    )
    _check_at_least("MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", retinanet.SMOOTH_L1_LOSS_BETA, 0)
    for key in ("NUM_CLASSES", "NUM_CONVS", "TOPK_CANDIDATES_TEST"):
        _check_count(f"MODEL.RETINANET.{key}", retinanet[key])
    # A slice up to -1 would leave out the last one.
    _check_count("TEST.DETECTIONS_PER_IMAGE", cfg.TEST.DETECTIONS_PER_IMAGE)
    _check_norm("MODEL.RETINANET.NORM", retinanet.NORM)
    alpha = retinanet.FOCAL_LOSS_ALPHA
    if not _is_number(alpha) or not (0 <= alpha <= 1 or alpha == -1):
        raise ValueError(
            f"MODEL.RETINANET.FOCAL_LOSS_ALPHA {alpha} must lie between 0 and 1, or be -1 for none"
        )
    _check_at_least("MODEL.RETINANET.FOCAL_LOSS_GAMMA", retinanet.FOCAL_LOSS_GAMMA, 0)
    _check_share("MODEL.RETINANET.SCORE_THRESH_TEST", retinanet.SCORE_THRESH_TEST)
    _check_share("MODEL.RETINANET.NMS_THRESH_TEST", retinanet.NMS_THRESH_TEST)
    if not _is_number(retinanet.PRIOR_PROB) or not 0 < retinanet.PRIOR_PROB < 1:
        raise ValueError(
            f"MODEL.RETINANET.PRIOR_PROB {retinanet.PRIOR_PROB} must lie between 0 and 1, both "
            "excluded; the published models have 0.01"
        )


def _check_guided_anchor(cfg: CfgNode) -> None:
    if "GUIDED_ANCHOR" not in cfg.MODEL:
        raise ValueError(
            f"{_GA} is missing: call ga_detectron2.add_ga_config(cfg) before merging a file"
        )
    ga = cfg.MODEL.GUIDED_ANCHOR
    _check_above(f"{_GA}.OCTAVE_BASE_SCALE", ga.OCTAVE_BASE_SCALE, 0)
    _check_count(f"{_GA}.SCALES_PER_OCTAVE", ga.SCALES_PER_OCTAVE)
    if not _are_positive(ga.ASPECT_RATIOS):
        raise ValueError(
            f"{_GA}.ASPECT_RATIOS {ga.ASPECT_RATIOS} must hold at least one ratio of height "
            "to width, each above 0, such as [0.5, 1.0, 2.0]"
        )
    _check_share(f"{_GA}.LOC_FILTER_THRESH", ga.LOC_FILTER_THRESH)
    ratios = (ga.CENTER_RATIO, ga.IGNORE_RATIO)
    if not all(map(_is_number, ratios)) or not 0 <= ratios[0] <= ratios[1] <= 1:
        raise ValueError(
            f"{_GA}.CENTER_RATIO {ga.CENTER_RATIO} and IGNORE_RATIO {ga.IGNORE_RATIO} must satisfy "
            "0 <= CENTER_RATIO <= IGNORE_RATIO <= 1: the ignored region surrounds the centre"
        )
    _check_count(f"{_GA}.DEFORM_GROUPS", ga.DEFORM_GROUPS)
    _check_weights(f"{_GA}.SHAPE_REG_WEIGHTS", ga.SHAPE_REG_WEIGHTS, 2)
    _check_thresholds(_GA, ga.IOU_THRESHOLDS, ga.IOU_LABELS)
    _check_share(f"{_GA}.MIN_POSITIVE_IOU", ga.MIN_POSITIVE_IOU)
    _check_count(f"{_GA}.BATCH_SIZE_PER_IMAGE", ga.BATCH_SIZE_PER_IMAGE)
    _check_share(f"{_GA}.POSITIVE_FRACTION", ga.POSITIVE_FRACTION)
    _check_at_least(f"{_GA}.LOC_LOSS_WEIGHT", ga.LOC_LOSS_WEIGHT, 0)
    _check_at_least(f"{_GA}.SHAPE_LOSS_WEIGHT", ga.SHAPE_LOSS_WEIGHT, 0)
    _check_at_least(f"{_GA}.SHAPE_LOSS_BETA", ga.SHAPE_LOSS_BETA, 0)


def _check_levels(
    key: str, in_features: Sequence[str], input_shape: dict[str, ShapeSpec]
) -> list[int]:
    names = list(in_features or ())  # null, which yacs takes for a value of any type
    unknown = [f for f in names if not isinstance(f, str) or f not in input_shape]
    if unknown or not names:
        raise ValueError(
            f"{key} {names} must name levels of the backbone, which has "
            f"{sorted(input_shape)}" + (f" but no {unknown}" if unknown else "")
        )
    strides = [input_shape[f].stride for f in in_features]
    doubled = [strides[0] * 2**i for i in range(len(strides))]
    if strides != doubled:
        raise ValueError(
            f"{key} {list(in_features)} have strides {strides}: guided anchoring needs each level "
            f"to have twice the stride of the one before, {doubled}"
        )
    return strides


def _check_channels(key: str, channels: Sequence[int]) -> None:
    if len(set(channels)) > 1:
        raise ValueError(
            f"{key}: the levels have {list(channels)} channels, but share one head: they must all "
            "have the same number"
        )


def _check_deform_groups(cfg: CfgNode, channels: int) -> None:
    groups = cfg.MODEL.GUIDED_ANCHOR.DEFORM_GROUPS
    if channels % groups:
        raise ValueError(
            f"{_GA}.DEFORM_GROUPS {groups} does not divide the head's {channels} channels; the "
            "published models have 4 groups of 64"
        )


def _check_thresholds(section: str, thresholds: Sequence[float], labels: Sequence[int]) -> None:
    if not _is_list(thresholds) or not _is_list(labels):
        raise ValueError(
            f"{section}.IOU_THRESHOLDS {thresholds} and IOU_LABELS {labels} must be lists, such as "
            "[0.3, 0.7] and [0, -1, 1]"
        )
    in_range = all(_is_number(t) and 0 < t <= 1 for t in thresholds)
    if not in_range or list(thresholds) != sorted(thresholds):
        raise ValueError(
            f"{section}.IOU_THRESHOLDS {list(thresholds)} must rise, each above 0 and at most 1, "
            "such as [0.3, 0.7]"
        )
    if len(labels) != len(thresholds) + 1:
        raise ValueError(
            f"{section}.IOU_LABELS {list(labels)} must have {len(thresholds) + 1} labels, one more "
            f"than IOU_THRESHOLDS {list(thresholds)}"
        )
    if any(label not in (-1, 0, 1) for label in labels) or labels[-1] != 1 or labels[0] == 1:
        raise ValueError(
            f"{section}.IOU_LABELS {list(labels)} must be 1 (positive), 0 (negative) or -1 (takes "
            "no part), the last one positive and the first one not, such as [0, -1, 1]"
        )
    if any(label != 1 for label in labels[list(labels).index(1) :]):
        raise ValueError(
            f"{section}.IOU_LABELS {list(labels)} must be positive from some IoU on, such as "
            "[0, -1, 1]: an anchor that covers its box better is not worse"
        )


def _check_weights(key: str, weights: Sequence[float], length: int) -> None:
    if not _are_positive(weights) or len(weights) != length:
        names = "(dx, dy, dw, dh)" if length == 4 else "(dw, dh)"
        raise ValueError(
            f"{key} {weights} must hold {length} numbers above 0, one each for {names}"
        )


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} {value!r} must be one of {', '.join(choices)}")


def _check_share(key: str, value: float) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{key} {value} must lie between 0 and 1")


def _check_at_least(key: str, value: float, least: float) -> None:
    if not _is_number(value) or not least <= value < math.inf:
        raise ValueError(f"{key} {value} must be at least {least}, and finite")


def _check_above(key: str, value: float, limit: float) -> None:
    if not _is_number(value) or not limit < value < math.inf:
        raise ValueError(f"{key} {value} must be above {limit}, and finite")


def _check_count(key: str, value: int) -> None:
    if not _is_whole(value) or value < 1:
        raise ValueError(f"{key} {value} must be a whole number, at least 1")


def _check_norm(key: str, norm: str) -> None:
    try:
        get_norm(norm, 32)
    except KeyError as error:
        raise ValueError(
            f"{key} {norm!r} must be a norm that detectron2 knows: '' for none, or GN, BN, SyncBN"
        ) from error


def _are_positive(values: Sequence[float]) -> bool:
    """Whether this is a list of at least one number, all above 0 and finite."""
    return (
        _is_list(values)
        and bool(values)
        and all(_is_number(v) and 0 < v < math.inf for v in values)
    )


# yacs checks a value's type, but takes null for any, and looks into no list.
def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)
