"""The models: geometry and targets as pure functions, and modules with weights."""

from .backbone import LastLevelP6P7WithoutReLU, build_ga_retinanet_resnet_fpn_backbone
from .guided_anchoring import GuidedAnchoring, GuidedAnchors, record_guided_anchors
from .matching import MatchRule
from .retinanet import GARetinaNet, GARetinaNetHead
from .rpn import GuidedAnchorRPN, GuidedAnchorRPNHead
from .timm_backbone import TimmBackbone

__all__ = [
    "GARetinaNet",
    "GARetinaNetHead",
    "GuidedAnchorRPN",
    "GuidedAnchorRPNHead",
    "GuidedAnchoring",
    "GuidedAnchors",
    "LastLevelP6P7WithoutReLU",
    "MatchRule",
    "TimmBackbone",
    "build_ga_retinanet_resnet_fpn_backbone",
    "record_guided_anchors",
]
