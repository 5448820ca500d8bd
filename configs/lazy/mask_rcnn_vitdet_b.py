"""ViTDet's Mask R-CNN (ViT-B) with GA-RPN; the data are detectron2's LSJ, 1024 x 1024."""

from functools import partial

from detectron2 import model_zoo
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate

from .common.ga_rpn import proposal_generator

_baseline = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py")
dataloader = _baseline.dataloader
lr_multiplier = _baseline.lr_multiplier
train = _baseline.train
train.amp.enabled = True
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)

model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.proposal_generator = proposal_generator
model.proposal_generator.head.conv_dims = [-1, -1]

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
