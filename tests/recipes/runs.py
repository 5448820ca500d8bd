"""Narrow networks and results of runs, for the tests of recipes."""

import json
from pathlib import Path

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from omegaconf import DictConfig

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"

GA_LOSSES = {"loss_anchor_loc", "loss_anchor_shape", "loss_rpn_cls", "loss_rpn_loc"}

# Sizes of networks and images, and schedules; a recipe's other keys are unchanged.
NARROW: dict[str, object] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": "()",
    "SEED": 1,
}


def narrow_overrides() -> list[str]:
    """:data:`NARROW` as overrides of a YAML config."""
    return [str(part) for pair in NARROW.items() for part in pair]


def narrow_backbone(config: str) -> Backbone:
    """The backbone of a YAML config with :data:`NARROW`'s sizes."""
    return build_backbone(load_config(str(CONFIGS / f"{config}.yaml"), narrow_overrides()))


def narrow_lazy(cfg: DictConfig, config: str) -> DictConfig:
    """Set the sizes of a YAML config with :data:`NARROW` in a lazy config."""
    model = cfg.model
    model.backbone = L(narrow_backbone)(config=config)
    if "head" in model:
        model.head.input_shape = [ShapeSpec(channels=32)] * 5
        model.head.conv_dims = [32] * 4
        return cfg
    model.proposal_generator.head.in_channels = 32
    model.proposal_generator.post_nms_topk = (50, 20)
    if "roi_heads" in model:
        model.roi_heads.box_head.input_shape = ShapeSpec(channels=32, height=7, width=7)
        model.roi_heads.box_head.fc_dims = [32, 32]
        model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=32)
    return cfg


def metrics(folder: Path) -> dict[str, float]:
    """Latest value of every metric of a run."""
    latest: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        latest.update(json.loads(line))
    return latest


def losses(folder: Path) -> dict[str, float]:
    """The last losses by name, without their sum."""
    return {k: v for k, v in metrics(folder).items() if k.startswith("loss_")}
