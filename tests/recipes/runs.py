"""What the tests of recipes share: narrow networks, and how a run is started and read."""

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

# A recipe's own keys stay, but for the size of its network, its images and its schedule.
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
    """Give a lazy config the sizes that the YAML one has with :data:`NARROW`."""
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
    """The latest value of everything that a run has written."""
    latest: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        latest.update(json.loads(line))
    return latest


def losses(folder: Path) -> dict[str, float]:
    """The last losses by name, without their sum."""
    return {k: v for k, v in metrics(folder).items() if k.startswith("loss_")}
