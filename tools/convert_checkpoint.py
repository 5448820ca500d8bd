#!/usr/bin/env python
"""Write the weights of an MMDetection or torchvision file as a file of detectron2.

    tools/convert_checkpoint.py ga://ga_faster_R_50 ga_faster_R_50.pth
    tools/convert_checkpoint.py downloaded.pth ga_rpn.pth --config-file configs/ga_rpn_R_50.yaml

train_net.py and the other tools take the original files too. A converted file is also for
detectron2's own programs, and for training with another number of classes: of a file of detectron2,
tensors that do not fit are left out, with a warning.
"""

import argparse

from detectron2.modeling import build_model

from ga_detectron2.checkpoint.convert_file import convert_file
from ga_detectron2.engine import load_config
from ga_detectron2.engine.command_line import add_overrides, errors_in_one_line, make_parser
from ga_detectron2.engine.output_paths import check_output_file


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "source", metavar="IN", help="MMDetection or torchvision file: a path, a URL or ga://NAME"
    )
    parser.add_argument("target", metavar="OUT", help="the new file, ending in .pth")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="compare with the model of this YAML configuration: each tensor must have its place, "
        "and each place its tensor (default: not compared)",
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
        check_output_file("OUT", args.target)
        model_state = None
        if args.config_file:
            cfg = load_config(args.config_file, args.opts)
            cfg.MODEL.DEVICE = "cpu"
            model_state = build_model(cfg).state_dict()
        weights = convert_file(args.source, args.target, model_state)
    what = "a backbone" if weights.is_backbone else "a model"
    checked = f"complete for {args.config_file}" if args.config_file else "not checked (no config)"
    print(f"{args.target}: {len(weights.tensors)} tensors of {what}, {checked}")


if __name__ == "__main__":
    main()
