#!/usr/bin/env python
"""Train and evaluate a model defined by a Python config (detectron2's LazyConfig).

This is detectron2's tools/lazyconfig_train_net.py with --dataset and a checkpointer that also reads
files of MMDetection and torchvision. detectron2's own script also trains the configs in
configs/lazy. A config is a Python program: run only those you trust.
"""

import argparse
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine.command_line import errors_in_one_line, make_training_parser
from ga_detectron2.engine.run_config import register_arguments

EXAMPLES = """
examples:
  train on eight GPUs
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_faster_R_50.py --num-gpus 8
  change the config with KEY=VALUE in hydra's syntax
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_retinanet_R_50.py \\
        optimizer.lr=0.00125 dataloader.train.total_batch_size=2 train.max_iter=720000
  evaluate published weights on COCO
    tools/lazyconfig_train_net.py --config-file configs/lazy/ga_faster_R_50.py --eval-only \\
        train.init_checkpoint=ga://ga_faster_R_50
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return make_training_parser(__doc__, EXAMPLES).parse_args(argv)


def evaluate(cfg: DictConfig, model: nn.Module) -> dict[str, Any] | None:
    if "evaluator" not in cfg.dataloader:
        return None
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def train(cfg: DictConfig, args: argparse.Namespace) -> None:
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    data_loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = kind(model, data_loader, optimizer)
    checkpointer = GACheckpointer(model, cfg.train.output_dir, trainer=trainer)
    is_main = comm.is_main_process()
    periodic = [
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
        hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer) if is_main else None,
        hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
        hooks.PeriodicWriter(
            default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period
        )
        if is_main
        else None,
    ]
    trainer.register_hooks(periodic)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def work(args: argparse.Namespace) -> None:
    """The work of each process."""
    with errors_in_one_line("lazyconfig_train_net.py"):
        register_arguments(args.dataset)
        cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
        default_setup(cfg, args)
        if not args.eval_only:
            train(cfg, args)
            return
        model = instantiate(cfg.model).to(cfg.train.device)
        GACheckpointer(model, complete=True).load(cfg.train.init_checkpoint)
        evaluate(cfg, create_ddp_model(model))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    launch(
        work,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    main()
