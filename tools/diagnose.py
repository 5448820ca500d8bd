#!/usr/bin/env python
"""Say what the guided anchors of a model do, by level, for any weights and data set.

Prints, for the levels of each data set of DATASETS.TEST: the share of cells that pass the location
filter, the share of objects whose centre passes, the location probability at centres and outside of
objects, and the mean over the objects of the best IoU of squares, approximate anchors, guided
anchors, and guided anchors of cells that pass. It also says whether the location branch was trained
upside down, as some of the published files were: see docs/deviations.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

from ga_detectron2.checkpoint import CheckpointError, GACheckpointer
from ga_detectron2.engine import (
    ConfigError,
    GATrainer,
    check_run,
    load_config,
    use_available_device,
)
from ga_detectron2.evaluation.diagnosis import diagnose, format_diagnosis


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the model")
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="register a data set in COCO's format under NAME, for use in DATASETS.TEST; may be "
        "given several times",
    )
    parser.add_argument(
        "--max-images", type=int, metavar="N", help="only the first N of a data set (default: all)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers there as well")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    args = parser.parse_intermixed_args(argv)
    if args.max_images is not None and args.max_images < 1:
        parser.error(f"--max-images must be at least 1, not {args.max_images}")
    return args


def run(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.config_file, args.opts, args.dataset)
    note = use_available_device(cfg)
    check_run(cfg, eval_only=True)
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("there is nothing to diagnose without weights: set MODEL.WEIGHTS")
    logger = setup_logger(name="ga_detectron2")
    setup_logger()
    if note:
        logger.warning(note)
    model = GATrainer.build_model(cfg)
    GACheckpointer(model).load(cfg.MODEL.WEIGHTS)
    results = {}
    for name in cfg.DATASETS.TEST:
        try:
            results[name] = diagnose(cfg, model, name, args.max_images)
        except ValueError as error:
            raise ConfigError(f"{args.config_file}: {error}") from error
    return {"config": args.config_file, "weights": cfg.MODEL.WEIGHTS, "datasets": results}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        results = run(args)
        for name, result in results["datasets"].items():
            print(f"\n{name}, {results['weights']}: {format_diagnosis(result)}")
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    except (ConfigError, CheckpointError, OSError) as error:
        sys.exit(f"diagnose.py: error: {error}")


if __name__ == "__main__":
    main()
