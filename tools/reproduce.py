#!/usr/bin/env python
"""Evaluate published models on COCO val2017 and compare with the published scores.

    tools/reproduce.py                                # all twelve; needs COCO and the internet
    tools/reproduce.py ga_rpn_R_50 ga_faster_R_50

If a model fails, the others are still evaluated, and the exit status is 1. Results are also written
to OUTPUT/results.json, logs and detections to OUTPUT/NAME. Images per second exclude data loading
and the first five images.
"""

import argparse
import hashlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.logger import setup_logger
from torch import nn

from ga_detectron2.atomic import atomic_open
from ga_detectron2.engine import (
    GATrainer,
    check_run,
    load_config,
    load_inference_model,
    use_available_device,
)
from ga_detectron2.engine.command_line import errors_in_one_line, make_parser
from ga_detectron2.engine.output_paths import check_output_folder
from ga_detectron2.model_zoo import PUBLISHED_MODELS, PublishedModel, get_config_file

PUBLISHED_ON = "coco_2017_val"
MODELS = {model.name: model for model in PUBLISHED_MODELS}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="models to evaluate (default: all published ones)"
    )
    parser.add_argument(
        "--dataset",
        default=PUBLISHED_ON,
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="dataset in COCO format, or the NAME of a registered one (default: coco_2017_val)",
    )
    parser.add_argument(
        "--weights-dir",
        metavar="DIR",
        help="folder with the published weights, under their original names (default: ga://NAME)",
    )
    text = "folder for results, logs and detections (default: output/reproduce)"
    parser.add_argument("--output", default="output/reproduce", metavar="DIR", help=text)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE",
        help="configuration keys and their new values, for all models; must come last",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in MODELS:
            parser.error(f"no weights are published for '{name}', only for {', '.join(MODELS)}")
    args.names = list(dict.fromkeys(args.names)) or list(MODELS)
    return args


@dataclass
class Measurement:
    """Result of one model.

    Attributes:
        name, metric, published: see :class:`PublishedModel`.
        dataset: name of the dataset.
        measured: score of ``metric`` in percent; None if the evaluation has none.
        images_per_second: speed of the model, one image at a time; None with too few images.
        peak_memory_gib: memory of PyTorch's tensors on a GPU; None on a CPU.
        as_published: whether the weights have the published SHA-256.
        scores: all results of the evaluation.
        error: reason of a failure.
    """

    name: str
    metric: str
    published: float
    dataset: str
    measured: float | None = None
    images: int = 0
    images_per_second: float | None = None
    peak_memory_gib: float | None = None
    as_published: bool | None = None
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    error: str | None = None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.published


class Stopwatch:
    """Counts a model's images and seconds, without the first few calls."""

    def __init__(self, model: nn.Module, warmup: int = 5):
        self.calls = -warmup
        self.images, self.seconds, self._start = 0, 0.0, 0.0
        self._is_on_gpu = next((p.is_cuda for p in model.parameters()), False)
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._start = self._now()

    def _end(self, _model: nn.Module, inputs: Any, _outputs: Any) -> None:
        self.calls += 1
        if self.calls > 0:
            self.seconds += self._now() - self._start
            self.images += len(inputs[0])

    def _now(self) -> float:
        if self._is_on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(model_info: PublishedModel, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a published model; returns fields of :class:`Measurement`."""
    weights = f"ga://{model_info.name}"
    if args.weights_dir:
        weights = os.path.join(args.weights_dir, os.path.basename(model_info.weights_url))
    datasets = [args.dataset] if "=" in args.dataset else []
    cfg = load_config(get_config_file(model_info.name), args.opts, datasets)
    use_available_device(cfg)
    dataset = args.dataset.split("=")[0]
    cfg.DATASETS.TEST = (dataset,)
    cfg.MODEL.WEIGHTS = weights
    cfg.OUTPUT_DIR = os.path.join(args.output, model_info.name)
    check_run(cfg, eval_only=True)
    for name in ("detectron2", "fvcore", "ga_detectron2"):
        setup_logger(cfg.OUTPUT_DIR, name=name)
    model = load_inference_model(cfg)
    loader: Any = GATrainer.build_test_loader(cfg, dataset)
    evaluator = GATrainer.build_evaluator(cfg, dataset)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    stopwatch = Stopwatch(model)
    results = inference_on_dataset(model, loader, evaluator)
    scores = {  # JSON has no NaN
        task: {key: float(value) if math.isfinite(value) else None for key, value in row.items()}
        for task, row in results.items()
    }
    task, key = {"AR1000": ("proposal_recall", "AR@1000")}.get(model_info.metric, ("bbox", "AP"))
    is_on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    return {
        "measured": scores.get(task, {}).get(key),
        "images": len(loader.dataset),
        "images_per_second": stopwatch.images / stopwatch.seconds if stopwatch.images else None,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if is_on_gpu else None,
        "as_published": not args.weights_dir or _has_sha256(weights, model_info.sha256_prefix),
        "scores": scores,
    }


def _has_sha256(path: str, prefix: str) -> bool:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest().startswith(prefix)


def format_table(measurements: Sequence[Measurement]) -> str:
    """Measurements and remarks, in Markdown."""
    lines = [
        "| model | metric | published | measured | difference | images/s | memory (GiB) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for m in measurements:
        numbers = ((m.measured, ".1f"), (m.difference, "+.1f"), (m.images_per_second, ".2f"),
                   (m.peak_memory_gib, ".2f"))  # fmt: skip
        cells = ["" if value is None else format(value, form) for value, form in numbers]
        cells[0] = "failed" if m.error else cells[0] or "none"
        lines.append(f"| {m.name} | {m.metric} | {m.published:.1f} | {' | '.join(cells)} |")
    lines.append("")
    for dataset in {m.dataset for m in measurements} - {PUBLISHED_ON}:
        lines.append(f"Measured on {dataset}, published on COCO val2017: not comparable.")
    others = [m.name for m in measurements if m.as_published is False]
    if others:
        lines.append(f"Not the published weights, by their SHA-256: {', '.join(others)}.")
    lines.extend(f"{m.name} failed: {m.error}" for m in measurements if m.error)
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("reproduce.py"):
        check_output_folder("--output", args.output)
    json_file = os.path.join(args.output, "results.json")
    os.makedirs(args.output, exist_ok=True)
    measurements = []
    for name in args.names:
        info = MODELS[name]
        try:
            fields = measure(info, args)
        except Exception as error:  # The next model may still work.
            logging.getLogger(__name__).exception(f"Evaluation of {name} failed")
            fields = {"error": " ".join(str(error).split()) or type(error).__name__}
        dataset = args.dataset.split("=")[0]
        measurements.append(Measurement(name, info.metric, info.coco_val2017, dataset, **fields))
        with atomic_open(json_file, "w") as file:
            json.dump([{**asdict(m), "difference": m.difference} for m in measurements], file)
    print(f"\n{format_table(measurements)}\n\nNumbers: {json_file}")
    failed = [m.name for m in measurements if m.error]
    if failed:
        sys.exit(
            f"reproduce.py: {len(failed)} of {len(measurements)} models failed: {', '.join(failed)}"
        )


if __name__ == "__main__":
    main()
