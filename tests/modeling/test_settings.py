"""Settings of guided anchoring that cannot work are refused when the model is built."""

import math
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from ga_detectron2 import add_ga_config
from ga_detectron2.modeling import MatchRule
from ga_detectron2.modeling.feature_adaption import FeatureAdaption

from .test_guided_anchoring import make_settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RPN, FASTER, RETINANET = "ga_rpn_R_50.yaml", "ga_faster_R_50.yaml", "ga_retinanet_R_50.yaml"
GA = "MODEL.GUIDED_ANCHOR."


def load(config_file: str, values: dict) -> CfgNode:
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
    cfg.merge_from_list([x for item in values.items() for x in item])
    return cfg


@pytest.mark.parametrize(
    ("config_file", "key", "value"),
    [
        # Levels that do not exist, none at all, or strides that do not double.
        (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p9"]),
        (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p2", "p3"]),
        (RPN, "MODEL.RPN.IN_FEATURES", ["p2", "p4"]),
        (RPN, "MODEL.RPN.HEAD_NAME", "NoSuchHead"),
        (RPN, "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0, 1.0)),
        # Thresholds and labels that do not belong together.
        (RPN, GA + "IOU_THRESHOLDS", [0.7, 0.3]),
        (RPN, "MODEL.RPN.IOU_THRESHOLDS", [math.nan, 0.7]),
        (RETINANET, "MODEL.RETINANET.IOU_LABELS", [0, -1, 1]),
        (RPN, GA + "IOU_LABELS", [0, -1, 2]),
        (RPN, "MODEL.RPN.IOU_LABELS", [0, 1, 0]),
        (RPN, GA + "MIN_POSITIVE_IOU", 2.0),
        # Numbers out of range.
        (RPN, GA + "OCTAVE_BASE_SCALE", 0),
        (RPN, GA + "SCALES_PER_OCTAVE", 0),
        (RETINANET, GA + "ASPECT_RATIOS", [1.0, 0.0]),
        (RPN, GA + "SHAPE_REG_WEIGHTS", [1.0]),
        (RPN, GA + "CENTER_RATIO", -0.1),
        (RPN, GA + "IGNORE_RATIO", 0.1),
        (RPN, GA + "LOC_FILTER_THRESH", 1.5),
        (RPN, GA + "POSITIVE_FRACTION", 1.01),
        (RPN, GA + "BATCH_SIZE_PER_IMAGE", 0),
        (RPN, GA + "DEFORM_GROUPS", 3),
        (RETINANET, GA + "ADAPTION_INIT_STD", 0.0),
        (RPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE", "huber"),
        (RETINANET, "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "huber"),
    ],
)
def test_impossible_value_is_refused_by_its_key(config_file, key, value):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build_model(load(config_file, {key: value}))
    message = str(caught.value)
    assert key.split(".")[-1] in message
    if key not in ("MODEL.RPN.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES"):
        assert key in message


@pytest.mark.parametrize("config_file", [RPN, RETINANET])
def test_adaption_settings_reach_the_layers(config_file):
    keys = {GA + "ADAPTION_INIT_STD": 1.0, GA + "DEFORM_GROUPS": 0}
    model = build_model(load(config_file, keys))
    layers = [m for m in model.modules() if isinstance(m, FeatureAdaption)]
    assert layers
    for layer in layers:
        assert layer.conv.weight.std().item() == pytest.approx(1, rel=0.3)
        assert not layer.offset.weight.any()


def test_lazy_configs_and_plain_python_share_the_checks():
    with pytest.raises(ValueError, match=r"MODEL\.GUIDED_ANCHOR\.OCTAVE_BASE_SCALE -8 must be"):
        make_settings(base_scale=-8)
    with pytest.raises(ValueError, match=r"strides \[8, 16, 64\].*\[8, 16, 32\]"):
        make_settings(strides=(8, 16, 64))
    with pytest.raises(ValueError, match="IOU_LABELS"):
        MatchRule([0.5], [0, -1, 1], 0.3)
    with pytest.raises(ValueError, match="DEFORM_GROUPS 4"):
        FeatureAdaption(30, 30, 4)
    assert MatchRule([0.5], [0, 1], 0.0) == MatchRule((0.5,), (0, 1), 0.0)


@pytest.mark.parametrize(
    ("config_file", "key", "value"),
    [
        (RPN, GA + "IOU_THRESHOLDS", [0.5, 0.5]),
        (RPN, GA + "MIN_POSITIVE_IOU", 0.0),
        (RPN, "MODEL.RPN.CONV_DIMS", [16, -1]),
        (RETINANET, "MODEL.RETINANET.IN_FEATURES", ["p3", "p4"]),
        (RETINANET, "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    ],
)
def test_unusual_value_is_accepted(config_file, key, value):
    build_model(load(config_file, {key: value}))


RETINANET_LEVELS = {
    "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
}


def test_rpn_on_retinanet_levels_needs_their_base_scale():
    with pytest.raises(ValueError, match="no square is smaller than 64 pixels"):
        build_model(load(RPN, RETINANET_LEVELS))
    build_model(load(RPN, {**RETINANET_LEVELS, GA + "OCTAVE_BASE_SCALE": 4}))


@pytest.mark.parametrize("config_file", [RPN, RETINANET])
def test_missing_section_names_add_ga_config(config_file):
    cfg = load(config_file, {})
    cfg.MODEL.pop("GUIDED_ANCHOR")
    with pytest.raises(ValueError, match=r"MODEL\.GUIDED_ANCHOR.*add_ga_config"):
        build_model(cfg)
