"""Small models whose location filter keeps a part of the cells."""

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
    "ga_faster": "quickstart_ga_faster_R_18.yaml",
    "ga_retinanet": "small/ga_retinanet_R_18.yaml",
}
KEPT_SHARE = 0.3


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator).float()


def kept_by_level(model: nn.Module, image: torch.Tensor) -> list[float]:
    """Share of each level's cells that pass the filter."""
    with record_guided_anchors(model) as records, torch.no_grad():
        model([{"image": image}])
    maps = records[0].loc_probability_maps()
    return [(x >= 0.01).float().mean().item() for x in maps]


def make_model(family: str) -> tuple[CfgNode, nn.Module]:
    """Random weights with which about a third of the cells pass, and of none an image without."""
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.WEIGHTS", ""]
    # PyTorch's group norm refuses a map of a single cell.
    overrides += ["MODEL.RETINANET.NORM", ""]
    cfg = load_config(str(CONFIGS / FAMILIES[family]), overrides)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    head = model.head if family == "ga_retinanet" else model.proposal_generator.rpn_head
    nn.init.normal_(head.anchor_loc.weight)
    nn.init.normal_(head.anchor_shape.weight, std=0.5)
    if family == "ga_retinanet":
        for layer in [*head.cls_subnet, *head.bbox_subnet]:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(head.cls_score.weight, std=0.3)
        nn.init.constant_(head.cls_score.bias, -2.0)
    with record_guided_anchors(model) as records, torch.no_grad():
        model([{"image": noise(96, 128)}])
    logits = records[0].loc_logits - head.anchor_loc.bias
    if logits.quantile(1 - KEPT_SHARE) < 0:  # cells without features shall be below the threshold
        head.anchor_loc.weight.data.neg_()
        logits = -logits
    assert logits.quantile(1 - KEPT_SHARE) > 0
    threshold = torch.tensor(0.01).logit()
    nn.init.constant_(head.anchor_loc.bias, threshold - logits.quantile(1 - KEPT_SHARE))
    return cfg, model
