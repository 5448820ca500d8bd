"""Configurations that cannot work are refused when the model is built, by the key's name."""

import math
import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from ga_detectron2 import add_ga_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RPN, FASTER, RETINANET = "ga_rpn_R_50.yaml", "ga_faster_R_50.yaml", "ga_retinanet_R_50.yaml"
NAN, INF = math.nan, math.inf


def load(config_file: str) -> CfgNode:
    """A published config on a backbone of a few channels."""
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.merge_from_file(str(CONFIGS / config_file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 4
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    return cfg


def override(cfg: CfgNode, values: dict) -> None:
    for key, value in values.items():
        *path, last = key.split(".")
        node = cfg
        for part in path:
            node = node[part]
        assert last in node, key
        node[last] = value


def check_refused(config_file: str, values: dict, key: str) -> None:
    cfg = load(config_file)
    override(cfg, values)
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is looked at below
        build_model(cfg)
    message = str(caught.value)
    assert key in message
    # The value that is wrong stands beside the key, as numbers are written in Python.
    value = values.get(key)
    if isinstance(value, (int, float)):
        assert str(value) in message
    # And it says what would be right.
    assert re.search(r"\bmust\b|\bneeds\b|\bleave\b|\bUse\b|does not divide", message), message


GA = "MODEL.GUIDED_ANCHOR."
REFUSED = [
    # A feature that does not exist, or none at all.
    (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p9"]),
    (RPN, "MODEL.RPN.IN_FEATURES", ["res4"]),
    (RPN, "MODEL.RPN.IN_FEATURES", []),
    (RPN, "MODEL.RPN.IN_FEATURES", "p2"),
    (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"]),
    (RETINANET, "MODEL.RETINANET.IN_FEATURES", []),
    # Strides that do not fit.
    (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p4"]),
    (FASTER, "MODEL.RPN.IN_FEATURES", ["p3", "p2"]),
    (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p2"]),
    (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p3", "p5"]),
    (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p7", "p6", "p5", "p4", "p3"]),
    # Weights of the wrong length, or that cannot divide.
    (RPN, GA + "SHAPE_REG_WEIGHTS", [1.0]),
    (RPN, GA + "SHAPE_REG_WEIGHTS", [1.0, 1.0, 1.0]),
    (RETINANET, GA + "SHAPE_REG_WEIGHTS", [0.0, 1.0]),
    (RETINANET, GA + "SHAPE_REG_WEIGHTS", [1.0, -1.0]),
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0)),
    (FASTER, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0, 1.0)),
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 0.0)),
    (RETINANET, "MODEL.RETINANET.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0)),
    # Thresholds out of order or out of range.
    (RPN, GA + "IOU_THRESHOLDS", [0.7, 0.3]),
    (RPN, GA + "IOU_THRESHOLDS", [0.3, 1.7]),
    (RPN, GA + "IOU_THRESHOLDS", [0.0, 0.7]),
    (RPN, GA + "IOU_THRESHOLDS", [NAN, 0.7]),
    (RPN, "MODEL.RPN.IOU_THRESHOLDS", [0.7, 0.3]),
    (RETINANET, GA + "IOU_THRESHOLDS", [0.5, 0.4]),
    (RETINANET, "MODEL.RETINANET.IOU_THRESHOLDS", [-0.5]),
    # Labels that are not one more than thresholds, or none of the three.
    (RPN, GA + "IOU_LABELS", [0, 1]),
    (RPN, "MODEL.RPN.IOU_LABELS", [0, -1, -1, 1]),
    (RETINANET, "MODEL.RETINANET.IOU_LABELS", [0, -1, 1]),
    (RPN, GA + "IOU_LABELS", [0, -1, 2]),
    (RPN, "MODEL.RPN.IOU_LABELS", [0, -1, 0]),
    # Positive below negative or ignored.
    (RPN, GA + "IOU_LABELS", [0, 1, -1]),
    (RPN, "MODEL.RPN.IOU_LABELS", [0, 1, 0]),
    (RETINANET, GA + "IOU_LABELS", [-1, 1, 0]),
    # Geometry.
    (RPN, GA + "OCTAVE_BASE_SCALE", 0),
    (RPN, GA + "OCTAVE_BASE_SCALE", -8),
    (RPN, GA + "OCTAVE_BASE_SCALE", NAN),
    (RPN, GA + "SCALES_PER_OCTAVE", 0),
    (RPN, GA + "ASPECT_RATIOS", []),
    (RETINANET, GA + "ASPECT_RATIOS", [1.0, 0.0]),
    (RPN, GA + "CENTER_RATIO", 0.6),
    (RPN, GA + "CENTER_RATIO", -0.1),
    # Shares and counts.
    (RPN, GA + "LOC_FILTER_THRESH", 1.5),
    (RETINANET, GA + "LOC_FILTER_THRESH", -0.01),
    (RPN, GA + "LOC_FILTER_THRESH", NAN),
    (RPN, GA + "MIN_POSITIVE_IOU", 2.0),
    (RPN, GA + "POSITIVE_FRACTION", 1.01),
    (RPN, GA + "BATCH_SIZE_PER_IMAGE", 0),
    (RPN, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", -1),
    (RPN, "MODEL.RPN.POSITIVE_FRACTION", -0.5),
    (RPN, "MODEL.RPN.NMS_THRESH", 1.5),
    (RETINANET, "MODEL.RETINANET.NMS_THRESH_TEST", -0.5),
    (RETINANET, "MODEL.RETINANET.SCORE_THRESH_TEST", 5.0),
    (RETINANET, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 0),
    (RETINANET, "MODEL.RETINANET.NUM_CLASSES", 0),
    # All but the last detection would be kept.
    (RETINANET, "TEST.DETECTIONS_PER_IMAGE", -1),
    (RETINANET, "TEST.DETECTIONS_PER_IMAGE", 0),
    (RETINANET, "MODEL.RETINANET.PRIOR_PROB", 0.0),
    (RETINANET, "MODEL.RETINANET.PRIOR_PROB", 1.0),
    # Losses.
    (RPN, GA + "LOC_LOSS_WEIGHT", -1.0),
    (RPN, GA + "SHAPE_LOSS_WEIGHT", NAN),
    (RETINANET, GA + "SHAPE_LOSS_BETA", -0.2),
    (RPN, "MODEL.RPN.SMOOTH_L1_BETA", -1.0),
    (RPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE", "l2"),
    (RETINANET, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "iou"),
    (RETINANET, "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", -0.1),
    # Layers.
    (RPN, GA + "DEFORM_GROUPS", 0),
    (RPN, GA + "DEFORM_GROUPS", 3),
    (RETINANET, GA + "DEFORM_GROUPS", 16),
    (RPN, "MODEL.RPN.CONV_DIMS", []),
    (RPN, "MODEL.RPN.CONV_DIMS", [-2]),
    (RPN, "MODEL.RPN.HEAD_NAME", "NoSuchHead"),
    (RETINANET, "MODEL.RETINANET.NUM_CONVS", 0),
    # What detectron2's RPN does at an image's border has no meaning here.
    (FASTER, "MODEL.RPN.BOUNDARY_THRESH", 0),
    # Every cell without a box becomes positive, for a box of no area: the box loss is infinite.
    (RPN, "MODEL.RPN.IOU_LABELS", [1, -1, 1]),
    (RETINANET, "MODEL.RETINANET.IOU_LABELS", [1, 1]),
    (RPN, GA + "IOU_LABELS", [1, -1, 1]),
    # Not numbers that anything can be divided by or multiplied with.
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (NAN, 1.0, 1.0, 1.0)),
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (INF, 1.0, 1.0, 1.0)),
    (RPN, GA + "SHAPE_REG_WEIGHTS", [NAN, 1.0]),
    (RPN, GA + "ASPECT_RATIOS", [NAN]),
    (RPN, GA + "OCTAVE_BASE_SCALE", INF),
    (RPN, GA + "LOC_LOSS_WEIGHT", INF),
    (RPN, "MODEL.RPN.LOSS_WEIGHT", NAN),
    (RPN, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", -1.0),
    # "selected index k out of range" in the middle of inference.
    (RPN, "MODEL.RPN.PRE_NMS_TOPK_TEST", -1),
    (RPN, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", -1),
    # The worst boxes are cut off in place of the best being kept.
    (RPN, "MODEL.RPN.POST_NMS_TOPK_TEST", -1),
    # TypeErrors from within, at the first step.
    (RPN, GA + "SCALES_PER_OCTAVE", 2.5),
    (RPN, GA + "BATCH_SIZE_PER_IMAGE", 10.5),
    (RPN, GA + "IOU_THRESHOLDS", 0.5),
    (RPN, GA + "SHAPE_REG_WEIGHTS", 1.0),
    # TypeErrors from a comparison: text for numbers, and null, which yacs takes for all.
    (RPN, "MODEL.RPN.CONV_DIMS", ["x"]),
    (RPN, "MODEL.RPN.CONV_DIMS", [None]),
    (RPN, "MODEL.RPN.CONV_DIMS", [8.5]),
    (RPN, "MODEL.RPN.CONV_DIMS", None),
    (RPN, "MODEL.RPN.IOU_THRESHOLDS", ["x", 0.7]),
    (RETINANET, "MODEL.RETINANET.IOU_THRESHOLDS", ["x"]),
    (RPN, GA + "IOU_THRESHOLDS", [(), 0.7]),
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", ("x",)),
    (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, None)),
    (RETINANET, "MODEL.RETINANET.BBOX_REG_WEIGHTS", ("x", 1.0, 1.0, 1.0)),
    (RPN, GA + "ASPECT_RATIOS", ["x"]),
    (RPN, GA + "SHAPE_REG_WEIGHTS", ["x", 1.0]),
    (RPN, "MODEL.RPN.IN_FEATURES", None),
    (RPN, "MODEL.RPN.IN_FEATURES", [["p2"]]),
    (RPN, "MODEL.RPN.BOUNDARY_THRESH", None),
    (RPN, "MODEL.RPN.NMS_THRESH", None),
    (RPN, "MODEL.RPN.SMOOTH_L1_BETA", None),
    (RPN, GA + "OCTAVE_BASE_SCALE", None),
    (RPN, GA + "CENTER_RATIO", None),
    (RPN, GA + "DEFORM_GROUPS", None),
    (RETINANET, "MODEL.RETINANET.FOCAL_LOSS_ALPHA", None),
    (RETINANET, "MODEL.RETINANET.PRIOR_PROB", None),
    # A KeyError that does not name the key.
    (RETINANET, "MODEL.RETINANET.NORM", "NoSuchNorm"),
    (RETINANET, "MODEL.RETINANET.FOCAL_LOSS_ALPHA", 2.0),
    (RETINANET, "MODEL.RETINANET.FOCAL_LOSS_GAMMA", -1.0),
]


@pytest.mark.parametrize(("config_file", "key", "value"), REFUSED)
def test_refused_by_name(config_file, key, value):
    check_refused(config_file, {key: value}, key)


@pytest.mark.parametrize(
    ("config_file", "key", "value", "named"),
    [
        (RETINANET, GA + "IGNORE_RATIO", 1.1, GA + "CENTER_RATIO 0.2 and IGNORE_RATIO 1.1"),
        (RPN, GA + "IGNORE_RATIO", 0.1, GA + "CENTER_RATIO 0.2 and IGNORE_RATIO 0.1"),
        (RPN, "MODEL.RPN.IOU_THRESHOLDS", [], "MODEL.RPN.IOU_LABELS [0, -1, 1]"),
        (RPN, "MODEL.RPN.CONV_DIMS", [30], GA + "DEFORM_GROUPS 4"),
        (RPN, "MODEL.FPN.OUT_CHANNELS", 6, GA + "DEFORM_GROUPS 4"),
    ],
)
def test_refused_by_the_names_of_two_that_do_not_fit(config_file, key, value, named):
    check_refused(config_file, {key: value}, named)


@pytest.mark.parametrize("config_file", [RPN, FASTER, RETINANET, "ga_fast_R_50.yaml"])
def test_what_is_refused_here_is_the_change(config_file):
    build_model(load(config_file))


@pytest.mark.parametrize(
    ("config_file", "key", "value"),
    [
        (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        (RPN, "MODEL.RPN.IN_FEATURES", ["p4"]),
        (RPN, GA + "IOU_THRESHOLDS", [0.5, 0.5]),
        (RPN, GA + "MIN_POSITIVE_IOU", 0.0),
        (RPN, GA + "SHAPE_LOSS_BETA", 0.0),
        (RPN, GA + "CENTER_RATIO", 0.5),
        (RPN, "MODEL.RPN.CONV_DIMS", [16, -1]),
        (RPN, "MODEL.RPN.HEAD_NAME", "GuidedAnchorRPNHead"),
        (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p3", "p4"]),
        (RETINANET, "MODEL.RETINANET.NORM", "GN"),
        (RETINANET, "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    ],
)
def test_unusual_but_possible(config_file, key, value):
    cfg = load(config_file)
    if value == "GN":
        cfg.MODEL.FPN.OUT_CHANNELS = 32
    override(cfg, {key: value})
    build_model(cfg)


RETINANETS_LEVELS = {
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
}


@pytest.mark.parametrize("config_file", [RPN, FASTER])
@pytest.mark.parametrize(
    "backbone",
    [
        "build_resnet_fpn_backbone",
        "build_retinanet_resnet_fpn_backbone",
        "build_ga_retinanet_resnet_fpn_backbone",
    ],
)
def test_retinanets_levels_in_the_rpn(config_file, backbone):
    """Either they are not there, or no square is smaller than 64 pixels."""
    values = {**RETINANETS_LEVELS, "MODEL.BACKBONE.NAME": backbone}
    check_refused(config_file, values, "MODEL.RPN.IN_FEATURES")


def test_retinanets_levels_in_the_rpn_with_retinanets_base_scale():
    cfg = load(RPN)
    override(
        cfg,
        {
            **RETINANETS_LEVELS,
            "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
            GA + "OCTAVE_BASE_SCALE": 4,
        },
    )
    build_model(cfg)


@pytest.mark.parametrize("meta_architecture", ["ProposalNetwork", "GARetinaNet"])
def test_without_this_packages_keys(meta_architecture):
    cfg = load(RPN if meta_architecture == "ProposalNetwork" else RETINANET)
    cfg.MODEL.pop("GUIDED_ANCHOR")
    with pytest.raises(ValueError, match=r"MODEL\.GUIDED_ANCHOR.*add_ga_config"):
        build_model(cfg)
