#!/usr/bin/env python
"""Train and score a guided anchoring model, or any other model of detectron2.

Arguments are those of detectron2's own tools/train_net.py, and --dataset. Checkpoints, logs, scores
and metrics.json go to OUTPUT_DIR. Processes are started by --num-gpus, or by torchrun:
docs/distributed.md.
"""

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import (
    GATrainer,
    check_run,
    load_config,
    load_inference_model,
    use_available_device,
)
from ga_detectron2.engine.training_tool import Run, TrainingTool, make_training_parser

EXAMPLES = """
examples:
  a small model on the embedded data, on a CPU
    tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml
  your own data on one GPU, with the schedule of eight
    tools/train_net.py --config-file configs/ga_faster_R_50.yaml SOLVER.REFERENCE_WORLD_SIZE 8 \\
        --dataset poles_train=poles/train.json:poles/images DATASETS.TRAIN "('poles_train',)" ...
  go on with a training that was cut off
    tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml --resume
  score published weights on COCO
    tools/train_net.py --config-file configs/ga_rpn_R_50.yaml --eval-only \\
        MODEL.WEIGHTS ga://ga_rpn_R_50
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_training_parser(
        __doc__,
        EXAMPLES,
        config_file="YAML configuration of the run, such as configs/ga_faster_R_50.yaml",
        overrides="keys of the configuration and their new values; they come last",
        use="DATASETS.TRAIN and DATASETS.TEST",
    )
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Run:
    """The checked, frozen configuration."""
    cfg = load_config(args.config_file, args.opts, args.dataset)
    note = use_available_device(cfg)
    check_run(cfg, args.num_gpus * args.num_machines, args.eval_only)
    cfg.freeze()
    return Run(cfg, cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, note)


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.resume and (last := GACheckpointer(nn.Identity(), cfg.OUTPUT_DIR).find_last()):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = last
    model = load_inference_model(cfg)
    results: dict[str, Any] = GATrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(GATrainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)


def train(cfg: CfgNode, args: argparse.Namespace) -> None:
    trainer = GATrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_tta(cfg, trainer.model))]
        )
    trainer.train()


def main(argv: list[str] | None = None) -> None:
    TrainingTool("train_net.py", prepare, evaluate, train).start(parse_args(argv))


if __name__ == "__main__":
    main()
