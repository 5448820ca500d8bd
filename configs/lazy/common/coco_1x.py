"""Data, schedule, optimizer and run of the published models: detectron2's, with what differs."""

from detectron2 import model_zoo

from ga_detectron2.data.images import NamingDatasetMapper

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.mapper._target_ = NamingDatasetMapper
dataloader.test.mapper._target_ = NamingDatasetMapper
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)

optimizer = model_zoo.get_config("common/optim.py").SGD

lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
lr_multiplier.warmup_length = 500 / 90000

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.seed = -1
# Iterations between pictures of location, anchors and targets in TensorBoard; 0 for none.
train.vis_period = 0
# The norm over the whole model, for tools/lazyconfig_train_net.py. max_norm=null: no clipping.
train.clip_gradients = {"max_norm": 35.0, "norm_type": 2.0}
