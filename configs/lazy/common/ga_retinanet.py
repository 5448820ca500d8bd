"""GA-RetinaNet with a ResNet-50; what is not guided anchoring is detectron2's."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform

from ga_detectron2.modeling import (
    GARetinaNet,
    GARetinaNetHead,
    LastLevelP6P7WithoutReLU,
    MatchRule,
)

from .guided_anchoring import guided_anchoring

_retinanet = model_zoo.get_config("common/models/retinanet.py").model
_retinanet.backbone.bottom_up.freeze_at = 2
_retinanet.backbone.top_block._target_ = LastLevelP6P7WithoutReLU

guided_anchoring.strides = [8, 16, 32, 64, 128]
guided_anchoring.base_scale = 4
guided_anchoring.shape_weights = [1.0, 1.0]
guided_anchoring.shape_rule.thresholds = [0.4, 0.5]
guided_anchoring.shape_rule.min_positive_iou = 0.4

model = L(GARetinaNet)(
    backbone=_retinanet.backbone,
    head=L(GARetinaNetHead)(
        input_shape=[ShapeSpec(channels=256)] * 5,
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256],
        norm="",
        prior_prob=0.01,
        deform_groups=4,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    guided_anchoring=guided_anchoring,
    # The best anchor of a box is positive at any IoU.
    box_rule=L(MatchRule)(thresholds=[0.5], labels=[0, 1], min_positive_iou=0.0),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    num_classes=80,
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    smooth_l1_beta=0.04,
    test_score_thresh=0.05,
    test_topk_candidates=1000,
    test_nms_thresh=0.5,
    max_detections_per_image=100,
    pixel_mean=_retinanet.pixel_mean,
    pixel_std=_retinanet.pixel_std,
    input_format="BGR",
)
