"""Small models whose location filter keeps a part of the cells."""

import functools
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2 import record_guided_anchors
from ga_detectron2.engine import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FAMILIES = {
    "ga_rpn": "small/ga_rpn_R_18.yaml",
    "ga_faster": "small/ga_faster_R_18.yaml",
    "ga_retinanet": "small/ga_retinanet_R_18.yaml",
}
# Three levels instead of five: what an export to ONNX takes grows with them.
LEVELS = {
    "ga_rpn": ["p2", "p3", "p4"],
    "ga_faster": ["p2", "p3", "p4"],
    "ga_retinanet": ["p3", "p4", "p5"],
}
OVERRIDES = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", "32"),
    # PyTorch's group norm refuses a map of a single cell.
    *("MODEL.RETINANET.NORM", ""),
]
KEPT_SHARE = 0.3


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator).float()


def overrides_of(family: str) -> list[str]:
    levels = str(LEVELS[family])
    keys = {"ga_retinanet": ["RETINANET"], "ga_rpn": ["RPN"], "ga_faster": ["RPN", "ROI_HEADS"]}
    return [*OVERRIDES, *(x for k in keys[family] for x in (f"MODEL.{k}.IN_FEATURES", levels))]


def loc_logits(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """The location logits of each level, (H * W,) each."""
    with record_guided_anchors(model) as records, torch.no_grad():
        model([{"image": image}])
    return [x.flatten() for x in records[0].grid.split_levels(records[0].loc_logits)]


def kept_by_level(model: nn.Module, image: torch.Tensor) -> list[float]:
    """Share of each level's cells that pass the filter."""
    return [(x.sigmoid() >= 0.01).float().mean().item() for x in loc_logits(model, image)]


@functools.cache
def make_model(family: str) -> tuple[CfgNode, nn.Module]:
    """Random weights with which some cells of each level pass, and of none an image without."""
    cfg = load_config(str(CONFIGS / FAMILIES[family]), overrides_of(family))
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    head = model.head if family == "ga_retinanet" else model.proposal_generator.rpn_head
    nn.init.normal_(head.anchor_shape.weight, std=0.5)
    if family == "ga_retinanet":
        for layer in [*head.cls_subnet, *head.bbox_subnet]:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(head.cls_score.weight, std=0.3)
        nn.init.constant_(head.cls_score.bias, -2.0)
    nn.init.zeros_(head.anchor_loc.bias)
    for _ in range(50):  # seldom more than a few
        nn.init.normal_(head.anchor_loc.weight)
        levels = loc_logits(model, noise(96, 128))
        limit = torch.cat(levels).quantile(1 - KEPT_SHARE)
        # A cell without features has a logit of 0, and shall not pass.
        if limit > 0 and all(x.min() < limit < x.max() for x in levels):
            nn.init.constant_(head.anchor_loc.bias, (torch.tensor(0.01).logit() - limit).item())
            return cfg, model
    raise AssertionError("no weights found with which each level keeps some cells")
