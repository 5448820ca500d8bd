"""detectron2's new baseline (100 epochs of large-scale jitter) with GA-RPN."""

from detectron2 import model_zoo

from .common.ga_rpn import proposal_generator

_baseline = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
model = _baseline.model
dataloader = _baseline.dataloader
optimizer = _baseline.optimizer
lr_multiplier = _baseline.lr_multiplier
train = _baseline.train

model.proposal_generator = proposal_generator
model.proposal_generator.head.conv_dims = [-1, -1]
