#!/usr/bin/env python
"""Train and score a model that a Python config (detectron2's LazyConfig) describes.

Arguments are those of detectron2's own tools/lazyconfig_train_net.py, and --dataset. Checkpoints,
logs, scores and metrics.json go to train.output_dir. A config is a program that is run: use only
those you trust. Processes are started by --num-gpus, or by torchrun: docs/distributed.md.
"""

import argparse

from omegaconf import DictConfig

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine.lazy_config import (
    build_lazy,
    check_lazy_run,
    load_lazy_config,
    use_available_device_lazy,
)
from ga_detectron2.engine.lazy_trainer import build_lazy_trainer, evaluate_lazy
from ga_detectron2.engine.training_tool import Run, TrainingTool, make_training_parser
from ga_detectron2.errors import ConfigError

EXAMPLES = """
examples:
  train on eight GPUs
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_faster_R_50.py --num-gpus 8
  change the config: KEY=VALUE, in hydra's syntax
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_retinanet_R_50.py \\
        optimizer.lr=0.00125 dataloader.train.total_batch_size=2 train.max_iter=720000
  go on with a training that was cut off
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_faster_R_50.py --resume
  score published weights on COCO
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_faster_R_50.py --eval-only \\
        train.init_checkpoint=ga://ga_faster_R_50
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_training_parser(
        __doc__,
        EXAMPLES,
        config_file="Python config of the run, such as configs/lazy/ga_faster_R_50.py",
        overrides="KEY=VALUE, +KEY=VALUE for a key that is not there yet; they come last",
        use="dataloader.{train,test}.dataset.names",
    )
    return parser.parse_args(argv)


def prepare(args: argparse.Namespace) -> Run:
    """The checked configuration."""
    cfg = load_lazy_config(args.config_file, args.opts, args.dataset)
    note = use_available_device_lazy(cfg)
    check_lazy_run(cfg, args.num_gpus * args.num_machines, args.eval_only)
    return Run(cfg, cfg.train.output_dir, cfg.train.device, note)


def evaluate(cfg: DictConfig, args: argparse.Namespace) -> None:
    model = build_lazy(cfg, "model").to(cfg.train.device)
    checkpointer = GACheckpointer(model, save_dir=cfg.train.output_dir, complete=True)
    if not cfg.train.init_checkpoint and not (args.resume and checkpointer.has_checkpoint()):
        raise ConfigError("--eval-only needs the weights to evaluate: set train.init_checkpoint")
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    evaluate_lazy(cfg, model)


def train(cfg: DictConfig, args: argparse.Namespace) -> None:
    trainer = build_lazy_trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train(trainer.start_iter, trainer.max_iter)


def main(argv: list[str] | None = None) -> None:
    TrainingTool(
        "lazyconfig_train_net.py", prepare, evaluate, train, output_key="train.output_dir"
    ).start(parse_args(argv))


if __name__ == "__main__":
    main()
