"""Whole detectors: images a second and peak memory, each published config against its twin.

    python benchmarks/models.py --models R_50 --batch 1 --seconds 60
    python benchmarks/models.py --modes inference --precision float32 amp
    python benchmarks/models.py --device cuda --batch 1 8 --precision float32 amp

A twin is detectron2's own config of RPN, Faster R-CNN or RetinaNet with our config's backbone and
input. Both see the same random images and boxes, and take turns in the same run. Weights are
random; of the guided models' cells, the location bias lets a share (--share) pass. All detect from
a score of 0.05 on, which random weights do not reach, so that no side has detections to suppress.

A training step is forward, losses, backward and an update by SGD (with a learning rate of 0). amp
is autocast: float16 with loss scaling on a GPU, as detectron2 trains, bfloat16 on a CPU. Memory is
what a step takes at its peak beyond model and input, in a process of its own: of tensors on a GPU,
resident memory on a CPU. What would take more than the machine has left is not run. With
--memory-only, peak memory is all that is measured, once a side.
"""

import argparse
import contextlib
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from heads import make_boxes, set_share
from measure import (
    OutOfMemoryError,
    Step,
    Table,
    add_common_arguments,
    chosen,
    describe,
    headline,
    in_own_process,
    is_out_of_memory,
    limit_memory,
    number,
    peak_memory,
    take_turns,
    write_json,
)
from torch import nn

from ga_detectron2 import add_ga_config
from ga_detectron2.model_zoo import PUBLISHED_MODELS, get_config

TWINS = {
    "ga_rpn": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "ga_faster": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "ga_retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
SAME_KEYS = ("PIXEL_MEAN", "PIXEL_STD", "RESNETS", "DEVICE")
SCORE_THRESHOLD = 0.05
# What the last norm of a residual block multiplies by. With 1, random weights double the variance
# at every block, which float16 does not survive.
RESIDUAL_SCALE = 0.2


def make_configs(name: str, args: argparse.Namespace) -> tuple[CfgNode, CfgNode]:
    """The config of a published model, and that of its twin."""
    cfg = get_config(name)
    cfg.merge_from_list(list(args.opts))
    cfg.MODEL.DEVICE = args.device
    twin = model_zoo.get_config(next(v for k, v in TWINS.items() if name.startswith(k)))
    add_ga_config(twin)
    for key in SAME_KEYS:
        twin.MODEL[key] = cfg.MODEL[key]
    twin.INPUT.FORMAT = cfg.INPUT.FORMAT
    twin.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.FPN.OUT_CHANNELS
    if args.equal_rois:
        for key in ("POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST"):
            twin.MODEL.RPN[key] = cfg.MODEL.RPN[key]
        twin.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    for one in (cfg, twin):
        one.MODEL.ROI_HEADS.SCORE_THRESH_TEST = SCORE_THRESHOLD
        one.MODEL.RETINANET.SCORE_THRESH_TEST = SCORE_THRESHOLD
    return cfg, twin


def make_model(cfg: CfgNode) -> nn.Module:
    """A model with random weights at which activations keep their size."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, module in model.named_modules():
        if name.endswith("conv3.norm") and isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(RESIDUAL_SCALE)
    return model


def make_inputs(args: argparse.Namespace, batch: int) -> list[dict[str, Any]]:
    """Images of noise with boxes, the same for every model."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    size = tuple(args.size)
    return [
        {
            "image": torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": make_boxes(size, args.boxes, "cpu"),
            "height": size[0],
            "width": size[1],
        }
        for _ in range(batch)
    ]


def make_step(
    name: str, guided: bool, mode: str, precision: str, batch: int, args: argparse.Namespace
) -> Step:
    """A call that takes one batch through one model, there and, in training, back."""
    cfg = make_configs(name, args)[0 if guided else 1]
    model = make_model(cfg).eval()
    inputs = make_inputs(args, batch)
    if guided:
        head = model.head if hasattr(model, "head") else model.proposal_generator.rpn_head
        set_share(model, head, lambda: model(inputs[:1]), args.share)
    kind = "cpu" if args.device == "cpu" else "cuda"
    dtype = torch.bfloat16 if kind == "cpu" else torch.float16

    def autocast() -> contextlib.AbstractContextManager:
        return torch.autocast(kind, dtype) if precision == "amp" else contextlib.nullcontext()

    if mode == "inference":

        def infer() -> None:
            with torch.no_grad(), autocast():
                model(inputs)

        return infer

    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    scaler = torch.amp.GradScaler(kind, enabled=precision == "amp" and kind == "cuda")

    def train() -> None:
        with EventStorage(0), autocast():
            losses = model(inputs)
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return train


def step_memory(
    name: str, guided: bool, mode: str, precision: str, batch: int, args: argparse.Namespace
) -> float:
    return peak_memory(make_step(name, guided, mode, precision, batch, args), args.device)


def measure_line(
    name: str, mode: str, precision: str, batch: int, args: argparse.Namespace
) -> dict[str, Any]:
    """All numbers of one line; ``error`` where it could not be run."""
    case = {"model": name, "mode": mode, "precision": precision, "batch": batch}
    try:
        memory = None
        if not args.no_memory:
            memory = [
                in_own_process(
                    step_memory, name, guided, mode, precision, batch, args, threads=args.threads
                )
                for guided in (False, True)
            ]
        if args.memory_only:
            return {**case, "memory_mib": memory}
        steps = [make_step(name, g, mode, precision, batch, args) for g in (False, True)]
        theirs, ours = take_turns(steps, args.repeats, args.device, limit=args.seconds)
    except (OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {**case, "error": "out of memory"}
    return {**case, "detectron2_s": theirs, "ours_s": ours, "memory_mib": memory}


def add_row(table: Table, line: dict[str, Any]) -> None:
    case = [line["model"], line["mode"], line["precision"], line["batch"]]
    if "error" in line:
        table.add(*case, line["error"], *[""] * 5)
        return
    speeds = ["", "", ""]
    if "ours_s" in line:
        theirs, ours = (statistics.median(line[k]) for k in ("detectron2_s", "ours_s"))
        speeds = [number(line["batch"] / x) for x in (theirs, ours)] + [f"{theirs / ours:.2f}"]
    memory = line["memory_mib"]
    table.add(
        *case,
        *speeds,
        *([number(memory[0]), number(memory[1])] if memory else ["", ""]),
        f"{memory[1] / memory[0]:.2f}" if memory and memory[0] else "",
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument("--models", nargs="*", default=[], help="parts of names; all without")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    modes = ("inference", "training")
    parser.add_argument("--modes", nargs="+", default=modes, choices=modes)
    kinds = ("float32", "amp")
    parser.add_argument("--precision", nargs="+", default=kinds[:1], choices=kinds)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--boxes", type=int, default=10, help="an image")
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument(
        "--equal-rois", action="store_true", help="the twin takes as many proposals as our config"
    )
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    memory.add_argument("--memory-only", action="store_true", help="leave out times")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values of every config"
    )
    args = parser.parse_args(argv)
    names = list(chosen([model.name for model in PUBLISHED_MODELS], args.models))
    if not names:
        parser.error(f"no published model has {' or '.join(args.models)} in its name")
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    times = "no times" if args.memory_only else f"at most {args.repeats} repeats, medians"
    note = f"{tuple(args.size)}, {args.boxes} boxes, {args.share:.0%} of the cells pass"
    print(headline(machine, note, times) + "\n")
    table = Table(
        "config",
        "",
        "precision",
        "batch",
        "detectron2 (images/s)",
        "ours (images/s)",
        "ratio",
        "detectron2 (MiB)",
        "ours (MiB)",
        "memory ratio",
        text_columns=3,
    )
    results = []
    if args.device == "cpu":
        limit_memory()
    for name in names:
        for mode in args.modes:
            for precision in args.precision:
                for batch in args.batch:
                    results.append(measure_line(name, mode, precision, batch, args))
                    add_row(table, results[-1])
                    write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
