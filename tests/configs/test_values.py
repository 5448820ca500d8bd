"""The configs against the settings of the published models, as MMDetection's files state them."""

import math

import pytest
import torch
from detectron2.config import CfgNode

from ga_detectron2.engine import load_config
from tests.runs import CONFIGS

BACKBONES = ("R_50", "R_101", "X_101_32x4d", "X_101_64x4d")
PUBLISHED = [f"ga_{method}_{b}" for method in ("rpn", "faster", "retinanet") for b in BACKBONES]
ALL = [*PUBLISHED, "ga_fast_R_50", "ga_retinanet_R_101_2x_ms"]

# MMDetection writes standard deviations of the targets, detectron2 their inverses.
RPN_BOX_STDS = (0.07, 0.07, 0.11, 0.11)
RPN_SHAPE_STDS = (0.14, 0.14)
ROI_BOX_STDS = (0.05, 0.05, 0.1, 0.1)

COMMON = {
    "VERSION": 2,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.MASK_ON": False,
    "MODEL.GUIDED_ANCHOR.SCALES_PER_OCTAVE": 3,
    "MODEL.GUIDED_ANCHOR.ASPECT_RATIOS": [0.5, 1.0, 2.0],
    "MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH": 0.01,
    "MODEL.GUIDED_ANCHOR.CENTER_RATIO": 0.2,
    "MODEL.GUIDED_ANCHOR.IGNORE_RATIO": 0.5,
    "MODEL.GUIDED_ANCHOR.DEFORM_GROUPS": 4,
    "MODEL.GUIDED_ANCHOR.ADAPTION_INIT_STD": 0.01,
    "MODEL.GUIDED_ANCHOR.IOU_LABELS": [0, -1, 1],
    "MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.GUIDED_ANCHOR.POSITIVE_FRACTION": 0.5,
    "MODEL.GUIDED_ANCHOR.SHAPE_LOSS_BETA": 0.2,
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
ONE_X = {"SOLVER.STEPS": (60000, 80000), "SOLVER.MAX_ITER": 90000, "INPUT.MIN_SIZE_TRAIN": (800,)}
RPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.PROPOSAL_GENERATOR.NAME": "GuidedAnchorRPN",
    "MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE": 8,
    "MODEL.GUIDED_ANCHOR.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU": 0.3,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.IOU_LABELS": [0, -1, 1],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 1.0,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 2000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "SOLVER.BASE_LR": 0.02,
}
ROI = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 300,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.6],
    "MODEL.ROI_HEADS.IOU_LABELS": [0, 1],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
}
METHODS = {
    "rpn": {
        **ONE_X,
        **RPN,
        "MODEL.META_ARCHITECTURE": "ProposalNetwork",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    },
    "faster": {**ONE_X, **RPN, **ROI},
    "fast": {
        **ONE_X,
        **RPN,
        **ROI,
        "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
        "MODEL.LOAD_PROPOSALS": True,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 300,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 300,
    },
    "retinanet": {
        **ONE_X,
        "MODEL.META_ARCHITECTURE": "GARetinaNet",
        "MODEL.BACKBONE.NAME": "build_ga_retinanet_resnet_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE": 4,
        "MODEL.GUIDED_ANCHOR.SHAPE_REG_WEIGHTS": [1.0, 1.0],
        "MODEL.GUIDED_ANCHOR.IOU_THRESHOLDS": [0.4, 0.5],
        "MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU": 0.4,
        "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "MODEL.RETINANET.NUM_CLASSES": 80,
        "MODEL.RETINANET.NUM_CONVS": 4,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.5],
        "MODEL.RETINANET.IOU_LABELS": [0, 1],
        "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.04,
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.25,
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
        "MODEL.RETINANET.PRIOR_PROB": 0.01,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
        "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
        "SOLVER.BASE_LR": 0.01,
    },
}
MULTI_SCALE_2X = {
    "SOLVER.STEPS": (120000, 160000),
    "SOLVER.MAX_ITER": 180000,
    "INPUT.MIN_SIZE_TRAIN": (480, 960),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
}


def backbone_settings(name: str) -> dict:
    settings = {
        "MODEL.RESNETS.DEPTH": 50 if "R_50" in name else 101,
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "INPUT.FORMAT": "BGR",
    }
    if "X_101" not in name:
        depth = settings["MODEL.RESNETS.DEPTH"]
        return settings | {"MODEL.WEIGHTS": f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"}
    groups = 64 if "64x4d" in name else 32
    return settings | {
        "MODEL.WEIGHTS": f"ga://resnext101_{groups}x4d",
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "INPUT.FORMAT": "RGB",
    }


def value_of(cfg: CfgNode, key: str) -> object:
    node = cfg
    for part in key.split("."):
        node = node[part]
    return node


def float32(values: object) -> list[float]:
    return torch.tensor(values, dtype=torch.float32).tolist()


@pytest.mark.parametrize("name", ALL)
def test_settings(name: str) -> None:
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    expected = {**COMMON, **METHODS[name.split("_")[1]], **backbone_settings(name)}
    if name.endswith("2x_ms"):
        expected.update(MULTI_SCALE_2X)
    assert {key: value_of(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("name", [n for n in ALL if "retinanet" not in n])
def test_weights_of_targets_are_exact(name: str) -> None:
    cfg = load_config(str(CONFIGS / f"{name}.yaml"))
    assert float32(cfg.MODEL.RPN.BBOX_REG_WEIGHTS) == float32([1 / s for s in RPN_BOX_STDS])
    shape_weights = cfg.MODEL.GUIDED_ANCHOR.SHAPE_REG_WEIGHTS
    assert float32(shape_weights) == float32([1 / s for s in RPN_SHAPE_STDS])
    if "rpn" not in name:
        assert float32(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS) == float32(
            [1 / s for s in ROI_BOX_STDS]
        )


def test_schedule_is_as_long_as_the_published_one() -> None:
    # MMDetection's 1x: 12 epochs of the 117266 images with boxes, decays after 8 and 11.
    solver = load_config(str(CONFIGS / "ga_rpn_R_50.yaml")).SOLVER
    epoch = 117266 / solver.IMS_PER_BATCH
    assert math.isclose(solver.MAX_ITER / epoch, 12, rel_tol=0.03)
    assert math.isclose(solver.STEPS[0] / epoch, 8, rel_tol=0.03)
    assert math.isclose(solver.STEPS[1] / epoch, 11, rel_tol=0.03)
