"""Values of keys that detectron2 takes as they come, and fails on, or trains wrongly by, later."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY

from ga_detectron2.config import add_ga_config
from ga_detectron2.errors import ConfigError
from ga_detectron2.modeling.losses import BOX_LOSS_TYPES

__all__ = ["check_values"]

_SCHEDULERS = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")
_CROPS = ("relative_range", "relative", "absolute", "absolute_range")
# For the same as SOLVER.WEIGHT_DECAY.
_MAY_BE_NULL = ("SOLVER.WEIGHT_DECAY_NORM",)
_DEPTHS = (18, 34, 50, 101, 152)
# Of layers of detectron2's backbones.
_COUNTS = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS",
)
_CHANNELS = {"BGR": 3, "RGB": 3, "YUV-BT.601": 3, "L": 1}


def check_values(cfg: CfgNode, eval_only: bool = False) -> None:
    """Refuse values of keys that do not belong to the model's head alone.

    Args:
        cfg: complete.
        eval_only: whether nothing is trained; what only training reads is then not looked at.

    Raises:
        ConfigError: with the key, its value, and what would be right.
    """
    _check_null(cfg, ("SOLVER.", "DATALOADER.", "SEED", "VIS_PERIOD") if eval_only else ())
    _check_model(cfg)
    if cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN"):
        _check_box_head(cfg)
    _check_test(cfg)
    _check_input(cfg, eval_only)
    if not eval_only:
        _check_solver(cfg)


def _check_null(cfg: CfgNode, unread: tuple[str, ...]) -> None:
    """Refuse null for a number; yacs takes it for a value of any type."""
    defaults = get_cfg()
    add_ga_config(defaults)
    for key, default in _values(defaults):
        if not _is_number(default) or key in _MAY_BE_NULL or key.startswith(unread):
            continue
        if _get(cfg, key) is None:
            raise _refuse(cfg, key, f"a number, such as {default}")


def _values(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_model(cfg: CfgNode) -> None:
    _one_of(cfg, "MODEL.META_ARCHITECTURE", _names(META_ARCH_REGISTRY))
    _one_of(cfg, "MODEL.BACKBONE.NAME", _names(BACKBONE_REGISTRY))
    generators = [*_names(PROPOSAL_GENERATOR_REGISTRY), "PrecomputedProposals"]
    _one_of(cfg, "MODEL.PROPOSAL_GENERATOR.NAME", generators)
    _number(cfg, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "at least 0", lambda x: x >= 0)
    if "resnet" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.RESNETS.DEPTH not in _DEPTHS:
        raise _refuse(cfg, "MODEL.RESNETS.DEPTH", f"one of {', '.join(map(str, _DEPTHS))}")
    for key in _COUNTS:
        _number(cfg, key, "a whole number, at least 1", lambda x: x >= 1)
    stages = cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE
    if not isinstance(stages, Sequence) or len(stages) != 4:
        raise _refuse(cfg, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "True or False for four stages")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except (RuntimeError, TypeError) as error:  # TypeError: no string
        raise _refuse(cfg, "MODEL.DEVICE", "'cuda', 'cuda:0' or 'cpu'") from error
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    channels = _CHANNELS.get(cfg.INPUT.FORMAT)
    if channels is None:
        raise _refuse(cfg, "INPUT.FORMAT", f"one of {', '.join(_CHANNELS)}")
    for key, values, is_right in (
        ("MODEL.PIXEL_MEAN", mean, math.isfinite),
        ("MODEL.PIXEL_STD", std, lambda x: 0 < x < math.inf),
    ):
        if not _are_numbers(values, is_right) or len(values) != channels:
            above = " above 0" if key.endswith("STD") else ""
            need = f"{channels} finite numbers{above}, for INPUT.FORMAT {cfg.INPUT.FORMAT}"
            raise _refuse(cfg, key, need)


def _check_box_head(cfg: CfgNode) -> None:
    for key in ("BATCH_SIZE_PER_IMAGE", "NUM_CLASSES"):
        _number(cfg, f"MODEL.ROI_HEADS.{key}", "at least 1", lambda x: x >= 1)
    for key in ("POSITIVE_FRACTION", "NMS_THRESH_TEST"):
        _number(cfg, f"MODEL.ROI_HEADS.{key}", "from 0 to 1", lambda x: 0 <= x <= 1)
    _number(cfg, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "a number", lambda x: not math.isnan(x))
    heads = cfg.MODEL.ROI_HEADS
    ious, labels = heads.IOU_THRESHOLDS, heads.IOU_LABELS
    if not _are_numbers(ious, lambda x: 0 < x <= 1) or not ious or sorted(ious) != list(ious):
        need = "rising numbers above 0 and at most 1, such as [0.5]"
        raise _refuse(cfg, "MODEL.ROI_HEADS.IOU_THRESHOLDS", need)
    if not _are_numbers(labels, lambda x: x in (-1, 0, 1)) or len(labels) != len(ious) + 1:
        need = "0, -1 or 1, one more than MODEL.ROI_HEADS.IOU_THRESHOLDS, such as [0, 1]"
        raise _refuse(cfg, "MODEL.ROI_HEADS.IOU_LABELS", need)
    box = "MODEL.ROI_BOX_HEAD"
    weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
    if not _are_numbers(weights, lambda x: 0 < x < math.inf) or len(weights) != 4:
        raise _refuse(cfg, f"{box}.BBOX_REG_WEIGHTS", "4 numbers above 0, for (dx, dy, dw, dh)")
    _one_of(cfg, f"{box}.BBOX_REG_LOSS_TYPE", BOX_LOSS_TYPES)
    for key in ("SMOOTH_L1_BETA", "BBOX_REG_LOSS_WEIGHT", "POOLER_SAMPLING_RATIO"):
        _number(cfg, f"{box}.{key}", "at least 0", lambda x: x >= 0)
    for key in ("NUM_FC", "NUM_CONV"):
        _number(cfg, f"{box}.{key}", "at least 0", lambda x: x >= 0)
    for key in ("FC_DIM", "CONV_DIM", "POOLER_RESOLUTION"):
        _number(cfg, f"{box}.{key}", "at least 1", lambda x: x >= 1)


def _check_test(cfg: CfgNode) -> None:
    # detectron2's ROI heads take -1 for all; a RetinaNet would drop the last one for it.
    dense = cfg.MODEL.META_ARCHITECTURE in ("GARetinaNet", "RetinaNet")
    _number(
        cfg,
        "TEST.DETECTIONS_PER_IMAGE",
        "at least 1" if dense else "at least 1, or -1 for all",
        lambda x: x >= 1 or (x == -1 and not dense),
    )
    limits = cfg.TEST.PROPOSAL_RECALL_LIMITS
    if not limits or not all(isinstance(x, int) and x >= 1 for x in limits):
        raise _refuse(cfg, "TEST.PROPOSAL_RECALL_LIMITS", "whole numbers from 1 on, at least one")


def _check_input(cfg: CfgNode, eval_only: bool) -> None:
    _number(cfg, "INPUT.MIN_SIZE_TEST", "at least 0", lambda x: x >= 0)
    _number(cfg, "INPUT.MAX_SIZE_TEST", "at least 1", lambda x: x >= 1)
    _number(cfg, "DATALOADER.NUM_WORKERS", "at least 0", lambda x: x >= 0)
    if not cfg.OUTPUT_DIR:
        raise _refuse(cfg, "OUTPUT_DIR", "a folder, such as ./output")
    if eval_only:
        return
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = sizes if isinstance(sizes, Sequence) else (sizes,)
    if not sizes or not all(_is_number(x) and 0 <= x < math.inf for x in sizes):
        raise _refuse(cfg, "INPUT.MIN_SIZE_TRAIN", "at least one size of 0 or more, as (800,)")
    _one_of(cfg, "INPUT.MIN_SIZE_TRAIN_SAMPLING", ("choice", "range"))
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and (
        len(sizes) != 2 or not 1 <= sizes[0] <= sizes[1]
    ):
        raise _refuse(
            cfg,
            "INPUT.MIN_SIZE_TRAIN",
            "the least and the largest size, with INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'",
        )
    _number(cfg, "INPUT.MAX_SIZE_TRAIN", "at least 1", lambda x: x >= 1)
    _one_of(cfg, "INPUT.RANDOM_FLIP", ("none", "horizontal", "vertical"))
    if cfg.INPUT.CROP.ENABLED:
        _one_of(cfg, "INPUT.CROP.TYPE", _CROPS)
        most = 1 if cfg.INPUT.CROP.TYPE.startswith("relative") else math.inf
        size = cfg.INPUT.CROP.SIZE
        if not _are_numbers(size, lambda x: 0 < x <= most) or len(size) != 2:
            of = "shares from 0 to 1" if most == 1 else "pixels"
            need = f"a height and a width above 0, {of}, for {cfg.INPUT.CROP.TYPE}"
            raise _refuse(cfg, "INPUT.CROP.SIZE", need)
    _one_of(cfg, "DATALOADER.SAMPLER_TRAIN", _SAMPLERS)


def _check_solver(cfg: CfgNode) -> None:
    _number(cfg, "SOLVER.IMS_PER_BATCH", "at least 1", lambda x: x >= 1)
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":  # which divides by it
        _number(cfg, "SOLVER.BASE_LR", "above 0 for WarmupCosineLR", lambda x: x > 0)
    else:
        _number(cfg, "SOLVER.BASE_LR", "at least 0", lambda x: x >= 0)
    _number(cfg, "SOLVER.MOMENTUM", "from 0 to below 1", lambda x: 0 <= x < 1)
    _number(cfg, "SOLVER.WEIGHT_DECAY", "at least 0", lambda x: x >= 0)
    _number(cfg, "SOLVER.GAMMA", "above 0", lambda x: x > 0)
    _number(cfg, "SOLVER.MAX_ITER", "at least 1", lambda x: x >= 1)
    _number(cfg, "SOLVER.WARMUP_ITERS", "at least 0", lambda x: x >= 0)
    _number(cfg, "SOLVER.WARMUP_FACTOR", "from 0 to 1", lambda x: 0 <= x <= 1)
    # 0 divides by zero; -1 would write a checkpoint in every iteration.
    _number(cfg, "SOLVER.CHECKPOINT_PERIOD", "at least 1", lambda x: x >= 1)
    _one_of(cfg, "SOLVER.LR_SCHEDULER_NAME", _SCHEDULERS)
    _one_of(cfg, "SOLVER.WARMUP_METHOD", ("linear", "constant"))
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR":
        most = cfg.SOLVER.BASE_LR
        need = f"from 0 to SOLVER.BASE_LR, {most}"
        _number(cfg, "SOLVER.BASE_LR_END", need, lambda x: 0 <= x <= most)
    else:
        _number(cfg, "SOLVER.BASE_LR_END", "at least 0", lambda x: x >= 0)
    _number(cfg, "SOLVER.NUM_DECAYS", "at least 1", lambda x: x >= 1)
    steps = cfg.SOLVER.STEPS
    if (
        not isinstance(steps, Sequence)
        or not all(isinstance(x, int) and x > 0 for x in steps)
        or sorted(steps) != list(steps)
        or len(set(steps)) < len(steps)
    ):
        raise _refuse(cfg, "SOLVER.STEPS", "iterations in rising order, each above 0")
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        _number(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "above 0", lambda x: x > 0, finite=False)
        # inf is the norm of the largest value.
        _number(cfg, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", "above 0", lambda x: x > 0, finite=False)


def _number(
    cfg: CfgNode, key: str, need: str, is_right: Callable[[Any], bool], finite: bool = True
) -> None:
    value = _get(cfg, key)
    # A comparison with NaN is false.
    if not _is_number(value) or not is_right(value) or (finite and math.isinf(value)):
        raise _refuse(cfg, key, f"{need}, and finite" if finite else need)


def _one_of(cfg: CfgNode, key: str, choices: Iterable[str]) -> None:
    choices = sorted(choices)
    if _get(cfg, key) not in choices:
        raise _refuse(cfg, key, f"one of {', '.join(choices)}")


def _refuse(cfg: CfgNode, key: str, need: str) -> ConfigError:
    return ConfigError(f"{key} {_get(cfg, key)!r} must be {need}")


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def _are_numbers(values: Any, is_right: Callable[[float], bool]) -> bool:
    # null, which yacs takes for a value of any type, is no sequence.
    return isinstance(values, Sequence) and all(_is_number(x) and is_right(x) for x in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(registry: Iterable[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in registry]
