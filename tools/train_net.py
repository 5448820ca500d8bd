#!/usr/bin/env python
"""Train and score a guided anchoring model, or any other model of detectron2.

Arguments are those of detectron2's own tools/train_net.py, and --dataset. Processes are started by
--num-gpus, or by torchrun: docs/distributed.md.
"""

import argparse
import sys
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ga_detectron2.checkpoint import CheckpointError, GACheckpointer
from ga_detectron2.engine import (
    ConfigError,
    GATrainer,
    check_run,
    load_config,
    use_available_device,
)
from ga_detectron2.engine.processes import (
    exit_once,
    run_processes,
    share_threads,
    use_torchrun,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = default_argument_parser()
    parser.description = __doc__
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="register a data set in COCO's format under NAME, for use in DATASETS.TRAIN and "
        "DATASETS.TEST; may be given several times",
    )
    return parser.parse_args(argv)


def setup(args: argparse.Namespace) -> tuple[CfgNode, str | None]:
    """The checked, frozen configuration, and a note to log."""
    cfg = load_config(args.config_file, args.opts, args.dataset)
    note = use_available_device(cfg)
    check_run(cfg, args.num_gpus * args.num_machines, args.eval_only)
    cfg.freeze()
    return cfg, note


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    model = GATrainer.build_model(cfg)
    checkpointer = GACheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    if not cfg.MODEL.WEIGHTS and not (args.resume and checkpointer.has_checkpoint()):
        raise ConfigError("--eval-only needs the weights to evaluate: set MODEL.WEIGHTS")
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = GATrainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(GATrainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any] | None:
    trainer = GATrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_tta(cfg, trainer.model))]
        )
    return trainer.train()


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """What every process does."""
    cfg, note = setup(args)
    default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="ga_detectron2")
    if note:
        logger.warning(note)
    if cfg.MODEL.DEVICE == "cpu":
        share_threads()
    try:
        return evaluate(cfg, args) if args.eval_only else train(cfg, args)
    except (ConfigError, CheckpointError, FloatingPointError, OSError) as error:
        sys.exit(f"train_net.py: error: {error}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        use_torchrun(args)
        setup(args)  # Before any process is started: a mistake is then reported once.
        run_processes(run, args)
    except ConfigError as error:
        exit_once(f"train_net.py: error: {error}")


if __name__ == "__main__":
    main()
