"""The heads of detectron2, of this package and of MMDetection on the same features and boxes.

    python benchmarks/mmdetection/compare.py --mmdet-python ENV/bin/python

The lines of benchmarks/heads.py, with MMDetection's heads as a third side, which run in a process
and an environment of their own (README.md) right after the other two, on the same features and
boxes. Their masked convolution does not run on a CPU and is replaced by a plain one.
"""

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heads import LINES, time_line
from measure import Table, add_common_arguments, describe, headline, number, write_json
from mmdetection import peer


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument("--mmdet-python", type=Path, required=True, help="of its environment")
    parser.add_argument(
        "--mmdet-torchvision-ops",
        action="store_true",
        help="torchvision's deformable convolution and NMS instead of mmcv's",
    )
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    args = parser.parse_args(argv)
    if args.device != "cpu":
        parser.error("MMDetection's heads are timed on a CPU alone")
    if shutil.which(args.mmdet_python) is None:  # Better told now than after the first two sides.
        parser.error(
            f"--mmdet-python {args.mmdet_python} is no program: name the Python of an environment "
            "made as benchmarks/mmdetection/README.md says"
        )
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
    for i in args.lines:
        name, kind, mode, args.proposals = LINES[i]
        theirs, ours = time_line(kind, mode, args)
        reference, machine["mmdetection"] = peer.time_line(args.mmdet_python, kind, mode, args)
        a, b, c = (statistics.median(x) for x in (theirs, ours, reference))
        table.add(name, number(a), number(c), number(b), f"{c / a:.2f}", f"{b / c:.3f}")
        results.append(
            {"name": name, "detectron2_s": theirs, "ours_s": ours, "mmdetection_s": reference}
        )
        write_json(args.output, machine, results)
    print(f"\n{', '.join(f'{k} {v}' for k, v in machine['mmdetection'].items())}")


if __name__ == "__main__":
    main()
