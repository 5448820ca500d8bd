#!/usr/bin/env python
"""Train and evaluate a guided anchoring model, or any other detectron2 model.

Takes the arguments of detectron2's tools/train_net.py and --dataset. Checkpoints, logs, scores and
metrics.json go to OUTPUT_DIR. For several GPUs or machines, use --num-gpus or torchrun; see
docs/distributed.md.
"""

import argparse
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_setup, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import (
    GATrainer,
    check_run,
    load_config,
    load_inference_model,
    use_available_device,
)
from ga_detectron2.engine.command_line import errors_in_one_line, make_training_parser
from ga_detectron2.engine.output_paths import check_output_folder, full_disk_in_one_line
from ga_detectron2.engine.processes import run_processes, share_threads, use_torchrun

EXAMPLES = """
examples:
  a small model on the embedded dataset, on a CPU
    tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml
  your own data on one GPU, with the schedule scaled down from eight
    tools/train_net.py --config-file configs/ga_faster_R_50.yaml SOLVER.REFERENCE_WORLD_SIZE 8 \\
        --dataset poles_train=poles/train.json:poles/images DATASETS.TRAIN "('poles_train',)" ...
  resume an interrupted training
    tools/train_net.py --config-file configs/small/ga_rpn_R_18.yaml --resume
  evaluate published weights on COCO
    tools/train_net.py --config-file configs/ga_rpn_R_50.yaml --eval-only \\
        MODEL.WEIGHTS ga://ga_rpn_R_50
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return make_training_parser(__doc__, EXAMPLES).parse_args(argv)


def prepare(args: argparse.Namespace) -> tuple[CfgNode, str | None]:
    """The checked, frozen configuration, and a message about its device."""
    cfg = load_config(args.config_file, args.opts, args.dataset)
    message = use_available_device(cfg)
    check_run(cfg, args.num_gpus * args.num_machines, args.eval_only)
    cfg.freeze()
    return cfg, message


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> None:
    if args.resume and (last := GACheckpointer(nn.Identity(), cfg.OUTPUT_DIR).find_last()):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = last
    GATrainer.check_test_sets(cfg)
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


def work(args: argparse.Namespace) -> None:
    """The work of each process."""
    with errors_in_one_line("train_net.py", FloatingPointError):
        cfg, message = prepare(args)
        with full_disk_in_one_line("OUTPUT_DIR", cfg.OUTPUT_DIR):
            default_setup(cfg, args)
            logger = setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="ga_detectron2")
            if message:
                logger.warning(message)
            if cfg.MODEL.DEVICE == "cpu":
                share_threads()
            (evaluate if args.eval_only else train)(cfg, args)
            logger.info(f"All output is in {cfg.OUTPUT_DIR}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("train_net.py", once=True):
        use_torchrun(args)
        # Mistakes are reported once, before any process is started.
        cfg, _ = prepare(args)
        check_output_folder("OUTPUT_DIR", cfg.OUTPUT_DIR)
        run_processes(work, args)


if __name__ == "__main__":
    main()
