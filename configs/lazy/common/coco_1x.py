"""Data, schedule, optimizer and run of the published models; what differs from detectron2's."""

from detectron2 import model_zoo

from ga_detectron2.gradient_clipping import clipped_sgd

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)

optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer._target_ = clipped_sgd
optimizer.max_norm = 35.0  # of the gradients of the whole model

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
lr_multiplier.warmup_length = 500 / 90000

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
