"""The heads of detectron2, of this package and of MMDetection on the same features and boxes.

    python benchmarks/mmdetection/compare.py --mmdet-python ENV/bin/python

The lines of benchmarks/heads.py. MMDetection's heads run in their own process and environment
(README.md) right after the other two, on the same features and boxes. Their masked convolution does
not run on a CPU and is replaced by a plain one.
"""

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heads import LINES, add_arguments, measure_line
from measure import add_common_arguments
from mmdetection import peer
from report import Table, describe, headline, number, write_json


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument("--mmdet-python", type=Path, required=True, help="of its environment")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.device != "cpu":
        parser.error("MMDetection's heads run on a CPU only")
    if shutil.which(args.mmdet_python) is None:
        parser.error(
            f"--mmdet-python {args.mmdet_python}: no such program; name the Python of an "
            "environment made as described in benchmarks/mmdetection/README.md"
        )
    args.memory = False
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    note = (
        f"{args.batch} x {tuple(args.size)}, {args.boxes} boxes, {args.share:.0%} of the cells "
        f"pass, at most {args.repeats} repeats, medians, seconds"
    )
    print(headline(machine, note) + "\n")
    table = Table(
        "", "detectron2", "MMDetection", "ours", "MMDetection / detectron2", "ours / MMDetection"
    )
    results = []
    for line in [LINES[i] for i in args.lines]:
        found = measure_line(line, args)
        reference, machine["mmdetection"] = peer.time_line(args.mmdet_python, line, args)
        a, b, c = found["detectron2_s"], found["ours_s"], statistics.median(reference)
        table.add(line.name, number(a), number(c), number(b), f"{c / a:.2f}", f"{b / c:.3f}")
        results.append({**found, "mmdetection_s": c})
        write_json(args.output, machine, results)
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine['mmdetection'].items())}")


if __name__ == "__main__":
    main()
