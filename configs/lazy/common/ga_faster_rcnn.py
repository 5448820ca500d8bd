"""Faster R-CNN on the 300 best proposals of GA-RPN."""

from detectron2 import model_zoo

from .ga_rpn import proposal_generator

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2

model.proposal_generator = proposal_generator
model.proposal_generator.post_nms_topk = (300, 300)

for _key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(_key)
model.roi_heads.batch_size_per_image = 256
model.roi_heads.proposal_matcher.thresholds = [0.6]
model.roi_heads.box_predictor.box2box_transform.weights = (20.0, 20.0, 10.0, 10.0)
model.roi_heads.box_predictor.smooth_l1_beta = 1.0
model.roi_heads.box_predictor.test_score_thresh = 0.001
