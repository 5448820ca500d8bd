"""The heads of detectron2, of this package and of MMDetection on the same features and boxes.

    python benchmarks/mmdetection/compare.py --mmdet-python ENV/bin/python

The lines of benchmarks/heads.py, and the targets of benchmarks/targets.py for the same boxes.
MMDetection's heads run in their own process and environment (README.md), by time_heads.py, right
after the others. Their masked convolution does not run on a CPU and is replaced by a plain one.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import targets
from heads import LINES, Line, make_boxes, make_features, make_parser, measure_line
from report import Report

SCRIPT = Path(__file__).with_name("time_heads.py")
Times = tuple[float, dict[str, str]]


def time_mmdetection(case: str, inputs: dict[str, np.ndarray], args: Namespace) -> Times:
    """Median seconds of a case of time_heads.py, and the versions of its environment.

    Raises:
        RuntimeError: the script failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/inputs.npz", **inputs)
        command = [str(args.mmdet_python), str(SCRIPT), f"{folder}/inputs.npz", case]
        command += ["--threads", str(args.threads), "--repeats", str(args.repeats)]
        command += ["--output", f"{folder}/times.json"]
        # This project's packages are not that environment's.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(
                f"{SCRIPT.name} failed in {args.mmdet_python}:\n{done.stdout[-2000:]}"
            )
        found = json.loads(Path(f"{folder}/times.json").read_text())
    return statistics.median(found["seconds"]), found["versions"]


def make_inputs(args: Namespace, maps: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Inputs of time_heads.py: features, and boxes drawn next."""
    size = tuple(args.size)
    inputs = {"size": np.array(size), "batch": np.array(args.batch), "share": np.array(args.share)}
    inputs |= {k: v.numpy() for k, v in maps.items()}
    for i in range(args.batch):
        instances = make_boxes(size, args.boxes, "cpu")
        inputs[f"boxes.{i}"] = instances.gt_boxes.tensor.numpy()
        inputs[f"classes.{i}"] = instances.gt_classes.numpy()
    return inputs


def time_line(line: Line, args: Namespace) -> Times:
    """MMDetection's side of a line of benchmarks/heads.py, with its features and boxes."""
    torch.manual_seed(0)
    maps = make_features(line.kind, tuple(args.size), args.batch, "cpu")
    case = f"{line.kind}-{line.mode}" + ("-proposals" if line.proposals else "")
    return time_mmdetection(case, make_inputs(args, maps), args)


def time_targets(args: Namespace) -> Times:
    """All targets of MMDetection, for the boxes of benchmarks/targets.py."""
    torch.manual_seed(0)
    return time_mmdetection("rpn-targets", make_inputs(args, {}), args)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.split("\n")[0], repeats=5)
    parser.add_argument("--mmdet-python", type=Path, required=True, help="of its environment")
    args = parser.parse_args(argv)
    if args.device != "cpu":
        parser.error("MMDetection's heads run on a CPU only")
    if shutil.which(args.mmdet_python) is None:
        parser.error(
            f"--mmdet-python {args.mmdet_python}: no such program; name the Python of an "
            "environment made as described in benchmarks/mmdetection/README.md"
        )
    torch.set_num_threads(args.threads)
    report = Report(args.device, args.output, f"{args.boxes} boxes, {args.share:.0%} of cells pass")
    for line in [LINES[i] for i in args.lines]:
        found = measure_line(line, args)
        seconds, report.machine["mmdetection"] = time_line(line, args)
        report.add(
            {
                **found,
                "mmdetection_s": seconds,
                "mmdetection_ratio": seconds / found["detectron2_s"],
            }
        )
    found = targets.measure_line(tuple(args.size), args.boxes, args.batch, args)
    seconds, report.machine["mmdetection"] = time_targets(args)
    ratio = found["seconds"]["all"] / seconds
    report.add(
        {"name": "targets", **found, "mmdetection_s": seconds, "share_of_mmdetection": ratio}
    )
    print(f"\n{report.machine['mmdetection']}")


if __name__ == "__main__":
    main()
