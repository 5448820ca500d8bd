"""Tiny detectors with random weights, at which outputs differ from cell to cell, and batches."""

import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ga_detectron2 import record_guided_anchors, use_guided_anchoring
from ga_detectron2.modeling import GuidedAnchoring, GuidedAnchorRPN

EVERYTHING = 10**6  # a batch size at which nothing is left to chance
BASES = {
    "proposals": "COCO-Detection/rpn_R_50_FPN",
    "boxes": "COCO-Detection/faster_rcnn_R_50_FPN",
    "masks": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN",
    "keypoints": "COCO-Keypoints/keypoint_rcnn_R_50_FPN",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN",
    "c4": "COCO-Detection/faster_rcnn_R_50_C4",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN",
}
# Both are padded to 96 x 128, alone and together.
SAME_PADDED_SIZE = [(90, 120), (96, 128)]
BOXES = [[8, 8, 72, 60], [60, 30, 100, 80], [70, 10, 86, 26], [2, 2, 112, 86]]


def tiny_config(kind: str, sample_everything: bool = False) -> CfgNode:
    """detectron2's config for the kind of model, with guided anchoring and few channels."""
    cfg = get_config(f"{BASES[kind]}_1x.yaml")
    use_guided_anchoring(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.PIXEL_STD = [57.0] * 3
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.FPN.NORM = "GN"  # outputs of the same scale on all levels
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1 if kind == "keypoints" else 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [8]
    cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.RETINANET.NUM_CONVS = 2
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.001
    if kind == "retinanet":
        cfg.MODEL.BACKBONE.NAME = "build_ga_retinanet_resnet_fpn_backbone"
    if sample_everything:
        cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = EVERYTHING
        cfg.MODEL.GUIDED_ANCHOR.BATCH_SIZE_PER_IMAGE = EVERYTHING
    return cfg


def build(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, module in model.named_modules():
        # Frozen batch norm without statistics: keep the sum of many blocks in bounds.
        if name.endswith("conv3.norm"):
            module.weight.fill_(0.1)
    head = head_of(model)
    of_boxes = 0.2 * getattr(model, "proposal_generator", model).box2box_transform.weights[0]
    of_shapes = 0.4 * settings_of(model).shape_weights[0]
    scales = {"anchor_shape": of_shapes, "anchor_deltas": of_boxes, "bbox_pred": of_boxes}
    with torch.no_grad():
        for name, layer in head.named_modules():
            if isinstance(layer, nn.Conv2d) and not name.endswith("offset"):
                layer.weight.normal_(std=scales.get(name, 1.5) / layer.weight[0].numel() ** 0.5)
        if hasattr(head, "cls_score"):
            head.cls_score.bias.fill_(-3.0)
        with record_guided_anchors(model) as records:
            infer(model, batch_of(SAME_PADDED_SIZE))
        # Four in ten cells pass the filter.
        logits = records[0].loc_logits - head.anchor_loc.bias
        scale = 2 / logits.std()
        head.anchor_loc.weight.mul_(scale)
        head.anchor_loc.bias.fill_(math.log(0.01 / 0.99) - scale * logits.quantile(0.6))
    return model


def head_of(model: nn.Module) -> nn.Module:
    return model.head if hasattr(model, "head") else model.proposal_generator.rpn_head


def settings_of(model: nn.Module) -> GuidedAnchoring:
    return next(m for m in model.modules() if isinstance(m, GuidedAnchoring))


def small_rpn(**override: int) -> GuidedAnchorRPN:
    """GA-RPN in float64 on five levels of 8 channels."""
    cfg = tiny_config("proposals")
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 24
    cfg.MODEL.GUIDED_ANCHOR.merge_from_other_cfg(CfgNode(override))
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 7)}
    rpn = GuidedAnchorRPN(cfg, shapes).double()
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.normal_(std=0.2)
    return rpn


def make_image(size: tuple[int, int], boxes: list, seed: int = 0) -> dict:
    """Noise, and objects that fill their boxes."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    keypoints = torch.zeros(len(boxes), 17, 3)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        masks[i, y1:y2, x1:x2] = True
        keypoints[i] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, 2.0])
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.zeros(len(boxes), dtype=torch.int64),
        gt_masks=BitMasks(masks),
        gt_keypoints=Keypoints(keypoints),
    )
    return {"image": image, "height": height, "width": width, "instances": instances}


def batch_of(sizes: list, boxes: tuple | list = (BOXES, [])) -> list[dict]:
    return [
        make_image(size, b, seed=i) for i, (size, b) in enumerate(zip(sizes, boxes, strict=True))
    ]


def train_step(model: nn.Module, batch: list[dict]) -> dict[str, Tensor]:
    model.train()
    with EventStorage():
        return model(batch)


@torch.no_grad()
def infer(model: nn.Module, batch: list[dict]) -> list[Instances]:
    return [next(iter(output.values())) for output in model.eval()(batch)]


def boxes_of(result: Instances) -> Tensor:
    """(k, 4) boxes of detections or proposals."""
    return result.get("pred_boxes" if result.has("pred_boxes") else "proposal_boxes").tensor
