"""Cascade Mask R-CNN on the proposals of GA-RPN."""

# What is imported is part of the config.
# ruff: noqa: F401

from detectron2 import model_zoo

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train
from .common.ga_rpn import proposal_generator

dataloader.train.mapper.use_instance_mask = True

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up.freeze_at = 2
model.proposal_generator = proposal_generator

optimizer.lr = 0.02
train.output_dir = "./output/lazy/cascade_mask_rcnn_R_50"
