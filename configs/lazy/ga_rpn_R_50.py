"""GA-RPN, as configs/ga_rpn_R_50.yaml."""

# What is imported is part of the config.
# ruff: noqa: F401

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from ga_detectron2.evaluation import ProposalRecallEvaluator

from .common.coco_1x import dataloader, lr_multiplier, optimizer, train
from .common.ga_rpn import model

optimizer.lr = 0.02
train.output_dir = "./output/lazy/ga_rpn_R_50"

dataloader.evaluator = L(DatasetEvaluators)(
    evaluators=[
        L(COCOEvaluator)(
            dataset_name="${....test.dataset.names}", output_dir="${train.output_dir}/inference"
        ),
        L(ProposalRecallEvaluator)(
            dataset_name="${....test.dataset.names}", limits=[100, 300, 1000]
        ),
    ]
)
