"""Runs time_heads.py in the environment that has MMDetection, on inputs of this project."""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from heads import Line, make_boxes, make_features

SCRIPT = Path(__file__).with_name("time_heads.py")


def run(
    python: Path, case: str, inputs: dict[str, np.ndarray], threads: int, repeats: int
) -> dict[str, Any]:
    """``versions`` and ``seconds`` of a case of time_heads.py.

    Raises:
        RuntimeError: the script failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/inputs.npz", **inputs)
        command = [str(python), str(SCRIPT), f"{folder}/inputs.npz", case]
        command += ["--threads", str(threads), "--repeats", str(repeats)]
        command += ["--output", f"{folder}/times.json"]
        # This project's packages are not that environment's.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{SCRIPT.name} failed in {python}:\n{done.stdout[-2000:]}")
        return json.loads(Path(f"{folder}/times.json").read_text())


def make_inputs(
    size: tuple[int, int],
    instances: Sequence[Instances],
    share: float,
    maps: dict[str, torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Inputs of time_heads.py."""
    inputs = {
        "size": np.array(size),
        "batch": np.array(len(instances)),
        "share": np.array(share),
        **{k: v.numpy() for k, v in (maps or {}).items()},
    }
    for i, one in enumerate(instances):
        inputs[f"boxes.{i}"] = one.gt_boxes.tensor.numpy()
        inputs[f"classes.{i}"] = one.gt_classes.numpy()
    return inputs


def time_targets(
    python: Path, size: tuple[int, int], boxes: int, threads: int, args: argparse.Namespace
) -> list[float]:
    """Seconds of all targets of MMDetection, for the boxes of benchmarks/targets.py."""
    torch.manual_seed(0)
    instances = [make_boxes(size, boxes, "cpu") for _ in range(args.batch)]
    inputs = make_inputs(size, instances, share=0.05)
    return run(python, "rpn-targets", inputs, threads, min(args.repeats, 5))["seconds"]


def time_line(
    python: Path, line: Line, args: argparse.Namespace
) -> tuple[list[float], dict[str, str]]:
    """Seconds of a line of benchmarks/heads.py, for its features and boxes; and versions."""
    torch.manual_seed(0)
    size = tuple(args.size)
    maps, _ = make_features(2 if line.kind == "rpn" else 3, size, args.batch, "cpu")
    instances = [make_boxes(size, args.boxes, "cpu") for _ in range(args.batch)]
    case = f"{line.kind}-{line.mode}" + ("-proposals" if line.proposals else "")
    inputs = make_inputs(size, instances, args.share, maps)
    found = run(python, case, inputs, args.threads, args.repeats)
    return found["seconds"], found["versions"]
