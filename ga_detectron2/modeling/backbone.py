"""RetinaNet's feature pyramid as the published weights expect it."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7, build_resnet_backbone
from torch import Tensor


class LastLevelP6P7WithoutReLU(LastLevelP6P7):
    """P6 from C5 and P7 from P6, with no ReLU between, unlike detectron2's."""

    def forward(self, c5: Tensor) -> list[Tensor]:
        """(N, C, H, W) to P6 (N, C, H / 2, W / 2) and P7 (N, C, H / 4, W / 4)."""
        p6 = self.p6(c5)
        return [p6, self.p7(p6)]


@BACKBONE_REGISTRY.register()
def build_ga_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet with a feature pyramid from P3 to P7; see :class:`LastLevelP6P7WithoutReLU`.

    Args:
        cfg: a detectron2 CfgNode.
        input_shape: shape of the images.
    """
    bottom_up = build_resnet_backbone(cfg, input_shape)
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=out_channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7WithoutReLU(bottom_up.output_shape()["res5"].channels, out_channels),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
