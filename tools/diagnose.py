#!/usr/bin/env python
"""Diagnose the guided anchors of a model per level, for any weights and dataset.

    tools/diagnose.py --config-file configs/small/ga_rpn_R_18.yaml
    tools/diagnose.py --config-file configs/ga_rpn_R_50.yaml --max-images 500 \\
        MODEL.WEIGHTS ga://ga_rpn_R_50

Weights are MODEL.WEIGHTS if given on the command line, else the last checkpoint in OUTPUT_DIR.
For each dataset of DATASETS.TEST and each level, prints the share of cells that pass the location
filter, the share of objects whose centre passes, the location probability at centres and outside
of objects, and the mean over objects of the best IoU with squares, approximate anchors, guided
anchors, and guided anchors of cells that pass. Reports an inverted location branch
(docs/deviations.md).

A second table compares thresholds of the location filter (MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH)
and names the highest that keeps 99.5 % of the objects' centres. Choose a threshold on validation
images, not on those whose scores you report.
"""

import argparse
from typing import Any

from detectron2.utils.logger import setup_logger

from ga_detectron2.engine import check_run, load_inference_model, read_inference_config
from ga_detectron2.engine.command_line import (
    add_model,
    at_least,
    errors_in_one_line,
    input_files,
    make_parser,
    write_json,
)
from ga_detectron2.engine.output_paths import check_output_file
from ga_detectron2.errors import ConfigError
from ga_detectron2.evaluation.diagnosis import diagnose, format_diagnosis


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument(
        "--max-images",
        type=at_least(1),
        metavar="N",
        help="use only the first N images of each dataset (default: all)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> dict[str, Any]:
    setup_logger(name="ga_detectron2")
    setup_logger()
    cfg = read_inference_config(args.config_file, args.opts, args.dataset)
    check_run(cfg, eval_only=True)
    model = load_inference_model(cfg)
    results = {}
    for name in cfg.DATASETS.TEST:
        try:
            results[name] = diagnose(cfg, model, name, args.max_images)
        except ValueError as error:
            raise ConfigError(f"{args.config_file}: {error}") from error
    return {"config": args.config_file, "weights": cfg.MODEL.WEIGHTS, "datasets": results}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("diagnose.py"):
        if args.json:
            check_output_file("--json", args.json, input_files(args))
        results = run(args)
        for name, result in results["datasets"].items():
            print(f"\n{name}, {results['weights']}: {format_diagnosis(result)}")
        if args.json:
            print()
            write_json("diagnose.py", args.json, results)


if __name__ == "__main__":
    main()
