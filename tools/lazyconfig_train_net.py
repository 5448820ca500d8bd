#!/usr/bin/env python
"""Train and score a model that a Python config (detectron2's LazyConfig) describes.

Arguments are those of detectron2's own tools/lazyconfig_train_net.py, and --dataset.
"""

import argparse
import os
import sys
from typing import Any

import torch
from detectron2.engine import (
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig
from torch.multiprocessing import ProcessExitedException

from ga_detectron2.checkpoint import CheckpointError, GACheckpointer
from ga_detectron2.engine import ConfigError, clip_full_model
from ga_detectron2.engine.lazy_config import (
    build_lazy,
    check_lazy_run,
    load_lazy_config,
    use_available_device_lazy,
)
from ga_detectron2.engine.train_loop import GAAMPTrainer, GASimpleTrainer


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = default_argument_parser(
        epilog="KEY=VALUE at the end changes the config: optimizer.lr=0.01 train.max_iter=1000"
    )
    parser.description = __doc__
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="register a data set in COCO's format under NAME, for use in "
        "dataloader.{train,test}.dataset.names; may be given several times",
    )
    return parser.parse_args(argv)


def setup(args: argparse.Namespace) -> tuple[DictConfig, str | None]:
    """The checked configuration, and a note to log."""
    cfg = load_lazy_config(args.config_file, args.opts, args.dataset)
    note = use_available_device_lazy(cfg)
    check_lazy_run(cfg, args.num_gpus * args.num_machines, args.eval_only)
    return cfg, note


def distribute(cfg: DictConfig, model: torch.nn.Module) -> torch.nn.Module:
    keys = dict(cfg.train.ddp)
    if cfg.train.device == "cpu":
        keys["device_ids"] = None
    return create_ddp_model(model, **keys)


def evaluate(cfg: DictConfig, model: torch.nn.Module) -> dict[str, Any]:
    if "evaluator" not in cfg.dataloader:
        return {}
    loader = build_lazy(cfg, "dataloader.test")
    results = inference_on_dataset(model, loader, build_lazy(cfg, "dataloader.evaluator"))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def evaluate_only(cfg: DictConfig, args: argparse.Namespace) -> dict[str, Any]:
    model = build_lazy(cfg, "model").to(cfg.train.device)
    checkpointer = GACheckpointer(model, save_dir=cfg.train.output_dir)
    if not cfg.train.init_checkpoint and not (args.resume and checkpointer.has_checkpoint()):
        raise ConfigError("--eval-only needs the weights to evaluate: set train.init_checkpoint")
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    return evaluate(cfg, model)


def train(cfg: DictConfig, args: argparse.Namespace) -> None:
    model = build_lazy(cfg, "model").to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = build_lazy(cfg, "optimizer")
    clip = cfg.train.get("clip_gradients")
    if clip is not None and clip.max_norm is not None:
        clip_full_model(optimizer, clip.max_norm, clip.get("norm_type", 2.0))

    model = distribute(cfg, model)
    step = GAAMPTrainer if cfg.train.amp.enabled else GASimpleTrainer
    trainer = step(model, build_lazy(cfg, "dataloader.train"), optimizer)
    checkpointer = GACheckpointer(model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=build_lazy(cfg, "lr_multiplier")),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
            if comm.is_main_process()
            else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: evaluate(cfg, model)),
            # The last, so that it also writes what the others have put into the storage.
            hooks.PeriodicWriter(
                default_writers(cfg.train.output_dir, cfg.train.max_iter), cfg.train.log_period
            )
            if comm.is_main_process()
            else None,
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    resumed = args.resume and checkpointer.has_checkpoint()
    # A checkpoint holds the iteration that was just finished.
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """What every process does."""
    cfg, note = setup(args)
    default_setup(cfg, args)
    logger = setup_logger(cfg.train.output_dir, comm.get_rank(), name="ga_detectron2")
    if note:
        logger.warning(note)
    if cfg.train.device == "cpu" and comm.get_local_size() > 1 and not os.getenv("OMP_NUM_THREADS"):
        # Otherwise each process would compute with as many threads as there are cores.
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
    try:
        if args.eval_only:
            return evaluate_only(cfg, args)
        train(cfg, args)
        return None
    except (ConfigError, CheckpointError, FloatingPointError) as error:
        sys.exit(f"lazyconfig_train_net.py: error: {error}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        setup(args)  # Before any process is started: a mistake is then reported once.
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except ConfigError as error:
        sys.exit(f"lazyconfig_train_net.py: error: {error}")
    except ProcessExitedException as error:
        sys.exit(error.exit_code)  # The process has said why.


if __name__ == "__main__":
    main()
