"""GA-RetinaNet, as configs/ga_retinanet_R_50.yaml."""

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train
from .common.ga_retinanet import model

optimizer.lr = 0.01
train.output_dir = "./output/lazy/ga_retinanet_R_50"
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
