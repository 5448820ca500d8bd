#!/usr/bin/env python
"""Evaluate published models on COCO val2017 and compare with what was published.

    tools/reproduce.py                                # all twelve; needs COCO and the internet
    tools/reproduce.py ga_rpn_R_50 ga_faster_R_50

Each model runs in a process of its own. One that fails does not keep the others from running; the
exit status then says so. Weights come from ga://NAME, hence from the server that
GA_DETECTRON2_MIRROR names where it is set, or else from the files in --weights-dir, under their
published names. Numbers are also in OUTPUT/results.json, logs and detections in OUTPUT/NAME.

Images a second are those of the model alone, without the first five. With --opts
TEST.COMPILE_BACKBONE True, what is compiled at these does not count; what a later size of images
may need does.
"""

import argparse
import os
import sys

from ga_detectron2.engine.command_line import errors_in_one_line, make_parser
from ga_detectron2.engine.output_paths import check_output_folder
from ga_detectron2.model_zoo import PUBLISHED_MODELS
from ga_detectron2.model_zoo.reproduce import Job, format_table, reproduce


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    known = [model.name for model in PUBLISHED_MODELS]
    parser = make_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which models (default: all that are published)"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="evaluate on this data set in COCO's format, or on the registered one of this NAME "
        "(default: coco_2017_val)",
    )
    parser.add_argument(
        "--weights-dir",
        metavar="DIR",
        help="folder with the files of weights, under their published names (default: ga://NAME)",
    )
    parser.add_argument(
        "--output",
        default="output/reproduce",
        metavar="DIR",
        help="folder for numbers, logs and detections (default: output/reproduce)",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="keys of every configuration and their new values; comes last",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in known:
            parser.error(f"no weights are published for '{name}', only for {', '.join(known)}")
    args.names = list(dict.fromkeys(args.names)) or known
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("reproduce.py"):
        check_output_folder("--output", args.output)
    dataset = args.dataset or "coco_2017_val"
    job = Job(
        dataset_name=dataset.split("=")[0],
        datasets=(dataset,) if "=" in dataset else (),
        weights_dir=args.weights_dir,
        overrides=tuple(args.opts),
        output=args.output,
    )
    json_file = os.path.join(args.output, "results.json")
    measurements = reproduce(args.names, job, json_file)
    print(f"\n{format_table(measurements)}\nNumbers: {json_file}")
    failed = [m.name for m in measurements if m.error]
    if failed:
        sys.exit(
            f"reproduce.py: {len(failed)} of {len(measurements)} models failed: {', '.join(failed)}"
        )


if __name__ == "__main__":
    main()
