"""What GA-RPN and GA-RetinaNet have in common; each sets what is None here."""

from detectron2.config import LazyCall as L

from ga_detectron2.modeling import GuidedAnchoring, MatchRule

guided_anchoring = L(GuidedAnchoring)(
    strides=None,
    base_scale=None,
    scales_per_octave=3,
    aspect_ratios=[0.5, 1.0, 2.0],
    center_ratio=0.2,
    ignore_ratio=0.5,
    shape_weights=None,
    shape_rule=L(MatchRule)(thresholds=None, labels=[0, -1, 1], min_positive_iou=None),
    batch_size_per_image=256,
    positive_fraction=0.5,
    loc_filter_thresh=0.01,
    loc_loss_weight=1.0,
    shape_loss_weight=1.0,
    shape_loss_beta=0.2,
)
