#!/usr/bin/env python
"""Write the weights of an MMDetection or torchvision file as a file of detectron2.

With --config-file they are compared with the model of that configuration: each tensor must have
its place, and each place its tensor. (GACheckpointer, and so train_net.py, takes the original
files too. A converted file is also for detectron2's own programs, and for training with another
number of classes: of a file of detectron2, tensors that do not fit are left out, with a warning.)
"""

import argparse
import sys

from detectron2.modeling import build_model

from ga_detectron2.checkpoint import CheckpointError
from ga_detectron2.checkpoint.convert_file import convert_file
from ga_detectron2.engine import ConfigError, load_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", metavar="IN", help="MMDetection or torchvision file: a path, a URL or ga://NAME"
    )
    parser.add_argument("target", metavar="OUT", help="the new file, ending in .pth")
    parser.add_argument("--config-file", metavar="FILE", help="check against the model of this")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    args = parser.parse_intermixed_args()
    if args.opts and not args.config_file:
        parser.error("KEY VALUE change a configuration: --config-file is missing")
    if len(args.opts) % 2:
        parser.error(f"the key {args.opts[-1]} has no value")
    return args


def main() -> None:
    args = parse_args()
    try:
        model_state = None
        if args.config_file:
            cfg = load_config(args.config_file, args.opts)
            cfg.MODEL.DEVICE = "cpu"
            model_state = build_model(cfg).state_dict()
        weights = convert_file(args.source, args.target, model_state)
    except (ConfigError, CheckpointError, OSError) as e:
        sys.exit(f"convert_checkpoint.py: error: {e}")
    what = "a backbone" if weights.is_backbone else "a model"
    checked = f"complete for {args.config_file}" if args.config_file else "not checked (no config)"
    print(f"{args.target}: {len(weights.tensors)} tensors of {what}, {checked}")


if __name__ == "__main__":
    main()
