"""GA-RetinaNet, as configs/ga_retinanet_R_50.yaml."""

# What is imported is part of the config.
# ruff: noqa: F401

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train
from .common.ga_retinanet import model

optimizer.lr = 0.01
train.output_dir = "./output/lazy/ga_retinanet_R_50"
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
