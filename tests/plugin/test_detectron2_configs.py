"""Every YAML config of detectron2 with ``use_guided_anchoring``: a training step and inference.

``python -m tests.plugin.test_detectron2_configs`` prints a table of all of them.
"""

import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.model_zoo import get_config, get_config_file
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage

from ga_detectron2 import add_ga_config, use_guided_anchoring

BASE = Path(get_config_file("COCO-Detection/rpn_R_50_FPN_1x.yaml")).parents[1]
CONFIGS = sorted(
    str(path.relative_to(BASE))
    for path in BASE.glob("*/*.yaml")
    if path.parent.name != "quick_schedules"  # short schedules of the same models
)
# One of each structure; deeper backbones and longer schedules are in the table.
TESTED = [name for name in CONFIGS if not re.search(r"_101_|_152_|[39]x|noaug", name)]
# What has no anchors to replace.
REFUSED = {
    "fast_rcnn_R_50_FPN_1x.yaml": "PrecomputedProposals",
    "semantic_R_50_FPN_1x.yaml": "SemanticSegmentor",
}
HAS_COMPILED_PART = importlib.util.find_spec("detectron2._C") is not None


def read(name: str) -> CfgNode:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = get_config(name)
    add_ga_config(cfg)
    return cfg


def shrink(cfg: CfgNode) -> None:
    """Fewer and narrower layers, for a test of seconds; the parts of the model stay."""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_STD = [255.0] * 3  # outputs of random layers stay small
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH = 50
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = 8, 32
    resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = 1, 8
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    if cfg.MODEL.FPN.NORM == "GN":
        resnets.STEM_OUT_CHANNELS, resnets.WIDTH_PER_GROUP = 32, 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [32]
    # Statistics over processes are not for one process on a CPU.
    for node in (resnets, cfg.MODEL.FPN, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        node.NORM = node.NORM.replace("SyncBN", "BN")


def make_input(cfg: CfgNode, height: int, width: int) -> dict[str, Any]:
    boxes = torch.tensor([[8.0, 8.0, 72.0, 40.0], [30.0, 20.0, 60.0, 90.0]])
    instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 0]))
    if cfg.INPUT.MASK_FORMAT == "bitmask":
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[:, 30:40, 35:55] = True
        instances.gt_masks = BitMasks(masks)
    else:
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].double().numpy()
        instances.gt_masks = PolygonMasks([[np.asarray(polygon)] for polygon in corners])
    keypoints = torch.rand(2, 17, 3) * 20 + 35
    keypoints[..., 2] = 2
    instances.gt_keypoints = Keypoints(keypoints)
    return {
        "image": torch.rand(3, height, width) * 255,
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": torch.zeros(height, width, dtype=torch.int64),
    }


def step_and_infer(cfg: CfgNode) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    torch.manual_seed(0)
    model = build_model(cfg)
    inputs = [make_input(cfg, 96, 128), make_input(cfg, 128, 96)]
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    with torch.no_grad():
        outputs = model.eval()(inputs)
    return losses, outputs


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_config_becomes_guided(name: str) -> None:
    cfg = read(name)
    before = cfg.clone()
    reason = REFUSED.get(Path(name).name)
    if reason:
        with pytest.raises(ValueError, match=reason):
            use_guided_anchoring(cfg)
        return
    use_guided_anchoring(cfg)
    for node in ("DATASETS", "DATALOADER", "INPUT", "SOLVER", "TEST"):
        assert cfg[node] == before[node], f"{node} changed"
    assert cfg.MODEL.BACKBONE == before.MODEL.BACKBONE
    if any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and not HAS_COMPILED_PART:
        pytest.skip("deformable convolution in a backbone needs detectron2's compiled part")
    shrink(cfg)
    losses, outputs = step_and_infer(cfg)
    assert {"loss_anchor_loc", "loss_anchor_shape"} <= losses.keys()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(outputs) == 2


def main() -> None:
    print("| config | training step | inference |\n| --- | --- | --- |")
    for name in CONFIGS:
        cfg = read(name)
        try:
            use_guided_anchoring(cfg)
            shrink(cfg)
            step_and_infer(cfg)
            print(f"| {name} | yes | yes |")
        except Exception as error:
            print(f"| {name} | {type(error).__name__}: {str(error)[:150]} | |")


if __name__ == "__main__":
    main()
