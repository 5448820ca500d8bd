"""Lazy configs of detectron2's projects with GA-RPN: a training step and inference."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "lazy"
PARTS = {"model", "dataloader", "optimizer", "lr_multiplier", "train"}


def narrow_vitdet(model: DictConfig) -> None:
    net = model.backbone.net
    net.update(img_size=128, embed_dim=32, depth=2, num_heads=2, window_block_indexes=[0])
    model.backbone.square_pad = 128


def with_local_norms(node: DictConfig | CfgNode) -> None:
    """BN for SyncBN, which needs GPUs."""
    for key, value in node.items():
        if isinstance(value, DictConfig | CfgNode):
            with_local_norms(value)
        elif isinstance(value, str) and value == "SyncBN":
            node[key] = "BN"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        ("mask_rcnn_vitdet_b", narrow_vitdet),
        ("cascade_mask_rcnn_R_50", with_local_norms),
        ("new_baselines_mask_rcnn_R_50", with_local_norms),
    ],
)
def test_projects_train_and_infer(name: str, narrow) -> None:
    cfg = LazyConfig.load(str(CONFIGS / f"{name}.py"))
    assert cfg.keys() >= PARTS
    narrow(cfg.model)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    size = (96, 128)
    instances = Instances(size, gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 72.0, 40.0]])))
    instances.gt_classes = torch.tensor([3])
    instances.gt_masks = BitMasks(torch.ones(1, *size, dtype=torch.bool))
    batch = [{"image": torch.rand(3, *size) * 255, "instances": instances}] * 2
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    assert {"loss_anchor_loc", "loss_anchor_shape", "loss_rpn_cls", "loss_mask"} <= {
        n.removesuffix("_stage0") for n in losses
    }
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        assert len(model.eval()(batch)) == 2
