"""GA-RPN with a ResNet-50; what is not guided anchoring is detectron2's."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import ProposalNetwork

from ga_detectron2.modeling import GuidedAnchorRPN, GuidedAnchorRPNHead, MatchRule

from .guided_anchoring import guided_anchoring

_mask_rcnn = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
_mask_rcnn.backbone.bottom_up.freeze_at = 2

guided_anchoring.strides = [4, 8, 16, 32, 64]
guided_anchoring.base_scale = 8
guided_anchoring.shape_weights = [1 / 0.14, 1 / 0.14]
guided_anchoring.shape_rule.thresholds = [0.3, 0.7]
guided_anchoring.shape_rule.min_positive_iou = 0.3

proposal_generator = L(GuidedAnchorRPN)(
    in_features=["p2", "p3", "p4", "p5", "p6"],
    head=L(GuidedAnchorRPNHead)(in_channels=256, conv_dims=[-1], deform_groups=4),
    guided_anchoring=guided_anchoring,
    box_rule=L(MatchRule)(thresholds=[0.3, 0.7], labels=[0, -1, 1], min_positive_iou=0.3),
    box2box_transform=L(Box2BoxTransform)(
        weights=[14.285714285714286, 14.285714285714286, 9.090909090909092, 9.090909090909092]
    ),
    batch_size_per_image=256,
    positive_fraction=0.5,
    pre_nms_topk=(2000, 2000),  # training, inference
    post_nms_topk=(1000, 1000),
    nms_thresh=0.7,
    smooth_l1_beta=1.0,
)

model = L(ProposalNetwork)(
    backbone=_mask_rcnn.backbone,
    proposal_generator=L(GuidedAnchorRPN)(
        **{k: v for k, v in proposal_generator.items() if k != "_target_"},
        # A ProposalNetwork trains on the losses alone.
        proposals_in_training=False,
    ),
    pixel_mean=_mask_rcnn.pixel_mean,
    pixel_std=_mask_rcnn.pixel_std,
)
