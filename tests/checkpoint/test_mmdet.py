"""Conversion of MMDetection's names against built models, torchvision's ResNets and plain facts."""

import re

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from hypothesis import given
from hypothesis import strategies as st

from ga_detectron2.checkpoint import convert_mmdet_state_dict
from ga_detectron2.checkpoint.mmdet import find_mmdet_names
from ga_detectron2.errors import CheckpointError

from .reference import SHAPES, build_shapes, config_of, make_shapes

# Written down by hand: one tensor of each kind.
PAIRS = {
    "backbone.conv1.weight": "backbone.bottom_up.stem.conv1.weight",
    "backbone.bn1.running_var": "backbone.bottom_up.stem.conv1.norm.running_var",
    "backbone.layer1.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
    "backbone.layer1.0.bn1.weight": "backbone.bottom_up.res2.0.conv1.norm.weight",
    "backbone.layer3.22.bn3.bias": "backbone.bottom_up.res4.22.conv3.norm.bias",
    "backbone.layer2.0.downsample.0.weight": "backbone.bottom_up.res3.0.shortcut.weight",
    "backbone.layer4.0.downsample.1.running_mean": (
        "backbone.bottom_up.res5.0.shortcut.norm.running_mean"
    ),
}
RPN_PAIRS = {
    "neck.lateral_convs.0.conv.weight": "backbone.fpn_lateral2.weight",
    "neck.lateral_convs.3.conv.bias": "backbone.fpn_lateral5.bias",
    "neck.fpn_convs.0.conv.bias": "backbone.fpn_output2.bias",
    "neck.fpn_convs.3.conv.weight": "backbone.fpn_output5.weight",
    "rpn_head.rpn_conv.weight": "proposal_generator.rpn_head.conv.weight",
    "rpn_head.conv_loc.bias": "proposal_generator.rpn_head.anchor_loc.bias",
    "rpn_head.conv_shape.weight": "proposal_generator.rpn_head.anchor_shape.weight",
    "rpn_head.feature_adaption.conv_offset.weight": (
        "proposal_generator.rpn_head.feature_adaption.offset.weight"
    ),
    "rpn_head.feature_adaption.conv_adaption.weight": (
        "proposal_generator.rpn_head.feature_adaption.conv.weight"
    ),
    "rpn_head.conv_cls.weight": "proposal_generator.rpn_head.objectness_logits.weight",
    "rpn_head.conv_reg.bias": "proposal_generator.rpn_head.anchor_deltas.bias",
    "roi_head.bbox_head.shared_fcs.0.weight": "roi_heads.box_head.fc1.weight",
    "roi_head.bbox_head.shared_fcs.1.bias": "roi_heads.box_head.fc2.bias",
    "roi_head.bbox_head.fc_cls.weight": "roi_heads.box_predictor.cls_score.weight",
    "roi_head.bbox_head.fc_reg.weight": "roi_heads.box_predictor.bbox_pred.weight",
}
RETINANET_PAIRS = {
    "neck.lateral_convs.0.conv.weight": "backbone.fpn_lateral3.weight",
    "neck.lateral_convs.2.conv.bias": "backbone.fpn_lateral5.bias",
    "neck.fpn_convs.2.conv.bias": "backbone.fpn_output5.bias",
    "neck.fpn_convs.3.conv.weight": "backbone.top_block.p6.weight",
    "neck.fpn_convs.4.conv.weight": "backbone.top_block.p7.weight",
    "bbox_head.cls_convs.0.conv.weight": "head.cls_subnet.0.weight",
    "bbox_head.cls_convs.3.conv.bias": "head.cls_subnet.6.bias",
    "bbox_head.reg_convs.1.conv.weight": "head.bbox_subnet.2.weight",
    "bbox_head.conv_loc.weight": "head.anchor_loc.weight",
    "bbox_head.conv_shape.bias": "head.anchor_shape.bias",
    "bbox_head.feature_adaption_cls.conv_offset.weight": "head.feature_adaption_cls.offset.weight",
    "bbox_head.feature_adaption_reg.conv_adaption.weight": "head.feature_adaption_bbox.conv.weight",
    "bbox_head.retina_cls.bias": "head.cls_score.bias",
    "bbox_head.retina_reg.weight": "head.bbox_pred.weight",
}


def numbered(names):
    """Distinct tensors."""
    return {name: torch.tensor(float(i)) for i, name in enumerate(names)}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_reference_models_are_complete(name):
    file = make_shapes(name)
    converted = convert_mmdet_state_dict(file)
    model = build_shapes(config_of(name))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in model.items()}
    dropped = [k for k in file if not any(file[k] is v for v in converted.values())]
    assert all(k.endswith(".num_batches_tracked") for k in dropped)


@pytest.mark.parametrize("pairs", [RPN_PAIRS, RETINANET_PAIRS], ids=["rpn", "retinanet"])
def test_one_tensor_of_each_kind(pairs):
    pairs = PAIRS | pairs
    file = numbered(pairs)
    converted = convert_mmdet_state_dict(file)
    assert list(converted) == list(pairs.values())
    assert all(converted[ours] is file[theirs] for theirs, ours in pairs.items())
    assert all(theirs in find_mmdet_names(ours) for theirs, ours in pairs.items())


@pytest.mark.parametrize("pairs", [PAIRS | RPN_PAIRS, PAIRS | RETINANET_PAIRS])
def test_contents_of_files(pairs):
    file = numbered(pairs)
    expected = convert_mmdet_state_dict(file)
    parallel = {f"module.{k}": v for k, v in file.items()}
    whole = {"meta": {"epoch": 12}, "state_dict": file, "optimizer": {"state": {}}}
    tracked = file | {"backbone.bn1.num_batches_tracked": torch.tensor(3)}
    tracked["backbone.layer1.0.downsample.1.num_batches_tracked"] = torch.tensor(3)
    arrays = {k: v.numpy() for k, v in file.items()}
    mmdetection_3 = {re.sub(r"^rpn_head\.", "bbox_head.", k): v for k, v in file.items()}
    for variant in (parallel, whole, {"state_dict": parallel}, tracked, arrays, mmdetection_3):
        assert convert_mmdet_state_dict(variant) == expected


@pytest.mark.parametrize(
    ("pairs", "prefix"),
    [
        (PAIRS, "backbone."),
        (RPN_PAIRS, "neck."),
        (RPN_PAIRS, "rpn_head."),
        (RPN_PAIRS, "roi_head.bbox_head."),
        (RETINANET_PAIRS, "neck."),
        (RETINANET_PAIRS, "bbox_head."),
    ],
)
def test_part_of_a_model(pairs, prefix):
    """By its names in the model, and by those within the part."""
    part = {k: v for k, v in pairs.items() if k.startswith(prefix)}
    for names in (part, {k.removeprefix(prefix): v for k, v in part.items()}):
        assert list(convert_mmdet_state_dict(numbered(names))) == list(part.values())


@pytest.mark.parametrize("names", [["bbox_head.conv_loc.weight"], ["conv_shape.bias"]])
def test_ambiguous_part(names):
    with pytest.raises(CheckpointError, match=f"cannot tell whether tensor '{names[0]}'") as e:
        convert_mmdet_state_dict(numbered(names))
    assert "GA-RPN" in str(e.value)
    assert "GA-RetinaNet" in str(e.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rpn_head.rpn_cls.weight"], "'rpn_head.rpn_cls.weight' belongs neither"),
        (["backbone.conv1.weight", "x", "y"], r"'x' \(and 1 more\) belongs neither"),
        # A ResNet-50-D's stem; a mask head; a Cascade R-CNN's box head.
        (["backbone.stem.0.weight"], "'backbone.stem.0.weight' belongs neither"),
        (["roi_head.mask_head.conv_logits.bias"], "'roi_head.mask_head.conv_logits.bias'"),
        (["roi_head.bbox_head.0.fc_cls.weight"], "'roi_head.bbox_head.0.fc_cls.weight'"),
        (["rpn_head.feature_adaption.conv_offset.bias"], "conv_offset.bias"),
        (["module.rpn_head.rpn_conv.bias", "rpn_head.rpn_conv.bias"], "'module.rpn_head"),
        # Names with a prefix say that it is a model, in which others have one as well.
        (["backbone.conv1.weight", "fc.weight"], "'fc.weight' belongs neither"),
        (["rpn_head.rpn_conv.bias", "bbox_head.retina_cls.bias"], "models are mixed"),
        (["neck.lateral_convs.3.conv.bias", "neck.fpn_convs.4.conv.bias"], "models are mixed"),
        (["rpn_head.conv_cls.bias", "bbox_head.conv_cls.bias"], "are both '.*objectness_logits"),
        (["backbone.bottom_up.stem.conv1.weight"], "'backbone.bottom_up.stem.conv1.weight'"),
    ],
)
def test_unknown_or_mixed_names(names, message):
    with pytest.raises(ValueError, match=message) as e:
        convert_mmdet_state_dict(numbered(names))
    assert "\n" not in str(e.value)


def test_other_contents():
    with pytest.raises(CheckpointError, match="not list"):
        convert_mmdet_state_dict([1, 2])
    with pytest.raises(CheckpointError, match="'epoch' is of type int"):
        convert_mmdet_state_dict({"state_dict": {"conv1.weight": torch.zeros(1), "epoch": 3}})


@given(st.data())
def test_misspelt_name(data):
    """A name with one changed character."""
    names = list(PAIRS | RPN_PAIRS)
    name = data.draw(st.sampled_from(names))
    at = data.draw(st.integers(0, len(name) - 1))
    changed = name[:at] + data.draw(st.sampled_from("xX_. \n")) + name[at + 1 :]
    if changed == name:
        return
    file = numbered([*names, "rpn_head.conv_reg.weight"])
    file[changed] = file.pop(name)
    with pytest.raises(CheckpointError):
        convert_mmdet_state_dict(file)


@pytest.mark.parametrize(
    ("make", "depth", "groups", "width"),
    [
        (torchvision.models.resnet50, 50, 1, 64),
        pytest.param(torchvision.models.resnext101_64x4d, 101, 64, 4, marks=pytest.mark.slow),
    ],
)
def test_backbone_computes_what_torchvisions_does(make, depth, groups, width):
    """The converted weights make detectron2's ResNet the same function as torchvision's."""
    torch.manual_seed(0)
    theirs = make(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.5)
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NUM_GROUPS = groups
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    ours = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    converted = convert_mmdet_state_dict(theirs.state_dict())
    prefix = "backbone.bottom_up."
    ours.load_state_dict({k.removeprefix(prefix): v for k, v in converted.items()}, strict=True)

    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = ours(image)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for i in range(4):
            x = getattr(theirs, f"layer{i + 1}")(x)
            found = features[f"res{i + 2}"]
            assert (found - x).abs().max() < 1e-4 * x.abs().max()
