#!/usr/bin/env python
"""Convert MMDetection or torchvision weights to detectron2's format.

    tools/convert_checkpoint.py ga://ga_faster_R_50 ga_faster_R_50.pth
    tools/convert_checkpoint.py downloaded.pth ga_rpn.pth --config-file configs/ga_rpn_R_50.yaml

The tools of ga_detectron2 also load the original files, and ga://NAME works wherever detectron2
takes a path. Convert a file for programs that do not import ga_detectron2, or to train a model that
only a part of the weights fits, such as one with another number of classes.
"""

import argparse
import os

from detectron2.modeling import build_model

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.checkpoint.conversion import read_converted, save_content
from ga_detectron2.engine import load_config
from ga_detectron2.engine.command_line import add_overrides, errors_in_one_line, make_parser
from ga_detectron2.engine.output_paths import check_output_file
from ga_detectron2.errors import ConfigError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "source", metavar="IN", help="MMDetection or torchvision file: a path, a URL or ga://NAME"
    )
    parser.add_argument("target", metavar="OUT", help="file to write, ending in .pth")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="check that the weights are complete for this YAML configuration",
    )
    add_overrides(parser)
    args = parser.parse_intermixed_args(argv)
    if args.opts and not args.config_file:
        parser.error("KEY VALUE change a configuration: --config-file is missing")
    if len(args.opts) % 2:
        parser.error(f"the key {args.opts[-1]} has no value")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("convert_checkpoint.py"):
        if not args.target.endswith(".pth"):
            raise ConfigError(f"OUT: the name {args.target} must end in .pth")
        check_output_file("OUT", args.target, inputs=(args.source,))
        content = read_converted(args.source)
        is_backbone = "matching_heuristics" in content
        if args.config_file:
            cfg = load_config(args.config_file, args.opts)
            cfg.MODEL.DEVICE = "cpu"
            GACheckpointer(build_model(cfg), complete=not is_backbone).load(args.source)
        os.makedirs(os.path.dirname(os.path.abspath(args.target)), exist_ok=True)
        save_content(content, args.target)
    what = "a backbone" if is_backbone else "a model"
    checked = f"complete for {args.config_file}" if args.config_file else "not checked (no config)"
    print(f"{args.target}: {len(content['model'])} tensors of {what}, {checked}")


if __name__ == "__main__":
    main()
