"""Time of the guided heads against detectron2's own, taking turns in one run.

    python benchmarks/heads.py --repeats 5            about 3 minutes on two CPU cores
    python benchmarks/heads.py --repeats 5 --small    images of 200x333

Features of an R-50-FPN for one image of 800x1333, 60 boxes, 256 channels, random weights; the
location bias is set so that a share of the cells passes the filter. A training step is forward,
losses and backward to features and weights. Ratios are those of medians; no repeat of a line begins
after 35 s (--seconds). At the default setting on a CPU the command fails if a ratio is above its
bar.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from measure import Step, add_common_arguments, autocast, memory_of, take_turns
from report import Table, describe, headline, number, write_json
from torch import nn

import ga_detectron2
from ga_detectron2 import add_ga_config
from ga_detectron2.model_zoo import get_config

CHANNELS = 256
NUM_CLASSES = 80
SMALL = (200, 333)


class Line(NamedTuple):
    """One comparison, with the highest accepted ratio at 800x1333 and at 200x333."""

    name: str
    kind: str
    mode: str
    proposals: bool
    bar: float
    small_bar: float | None = None


LINES = (
    Line("GA-RPN head, inference", "rpn", "inference", False, 1.05),
    Line("GA-RPN head, training step, no proposals asked for", "rpn", "training", False, 0.9, 1.1),
    Line("GA-RPN head, training step with proposals", "rpn", "training", True, 1.3, 1.3),
    Line("GA-RetinaNet head, inference", "retinanet", "inference", False, 0.9),
    Line("GA-RetinaNet head, training step", "retinanet", "training", False, 0.8),
)


class Features(nn.Module):
    """A backbone that returns given maps, so that a detector's time is its head's."""

    size_divisibility = 32
    padding_constraints: dict = {}  # noqa: RUF012

    def __init__(self, maps: dict[str, torch.Tensor], strides: dict[str, int]):
        super().__init__()
        self.maps, self.strides = maps, strides

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {k: ShapeSpec(channels=CHANNELS, stride=s) for k, s in self.strides.items()}

    def forward(self, _images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.maps


def make_features(
    first: int, size: tuple[int, int], batch: int, device: str
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    height, width = (-(-s // 32) * 32 for s in size)
    maps, strides = {}, {}
    for level in range(first, first + 5):
        stride = 2**level
        shape = (batch, CHANNELS, -(-height // stride), -(-width // stride))
        maps[f"p{level}"] = torch.randn(shape, device=device).relu_()
        strides[f"p{level}"] = stride
    return maps, strides


def make_boxes(size: tuple[int, int], number: int, device: str) -> Instances:
    """Boxes from 16 to 500 pixels, evenly over the octaves, of ratios from 1:3 to 3:1."""
    height, width = size
    sides = 16 * (500 / 16) ** torch.rand(number)
    ratio = 3 ** (2 * torch.rand(number) - 1)
    wh = torch.stack([sides * ratio.sqrt(), sides / ratio.sqrt()], dim=1)
    center = torch.rand(number, 2) * torch.tensor([width, height])
    boxes = Boxes(torch.cat([center - wh / 2, center + wh / 2], dim=1))
    boxes.clip(size)
    boxes = boxes[boxes.nonempty(8)]
    classes = torch.randint(NUM_CLASSES, (len(boxes),))
    return Instances(size, gt_boxes=boxes, gt_classes=classes).to(device)


def build_rpn(guided: bool, strides: dict[str, int], proposals: bool) -> nn.Module:
    if guided:
        cfg = get_config("ga_faster_R_50" if proposals else "ga_rpn_R_50")
    else:
        cfg = get_cfg()
        cfg.MODEL.RPN.IN_FEATURES = list(strides)
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 2000
        cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 2000
        cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 1000
    shapes = {k: ShapeSpec(channels=CHANNELS, stride=s) for k, s in strides.items()}
    return build_proposal_generator(cfg, shapes)


def build_retinanet(
    guided: bool, maps: dict[str, torch.Tensor], strides: dict[str, int], device: str
) -> nn.Module:
    if guided:
        import ga_detectron2.modeling.retinanet as module

        cfg = get_config("ga_retinanet_R_50")
    else:
        import detectron2.modeling.meta_arch.retinanet as module

        cfg = get_cfg()
        add_ga_config(cfg)
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
        cfg.MODEL.RETINANET.IN_FEATURES = list(strides)
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [
            [x * 2 ** (i / 3) for i in range(3)] for x in (32, 64, 128, 256, 512)
        ]
    cfg.MODEL.DEVICE = device
    build, module.build_backbone = module.build_backbone, lambda _cfg: Features(maps, strides)
    try:
        return build_model(cfg)
    finally:
        module.build_backbone = build


def set_share(
    model: nn.Module, head: nn.Module, forward: Callable[[], object], share: float
) -> None:
    """Shift the location bias so that this share of the cells passes the filter."""
    with torch.no_grad(), ga_detectron2.record_guided_anchors(model) as records:
        forward()
        logits = records[0].loc_logits.flatten()
        threshold = torch.logit(torch.tensor(0.01))
        head.anchor_loc.bias += threshold - logits.float().quantile(1 - share).cpu()


def make_step(line: Line, guided: bool, args: argparse.Namespace) -> Step:
    """A call that runs one side of one line once."""
    torch.manual_seed(0)
    size, device = tuple(args.size), args.device
    maps, strides = make_features(2 if line.kind == "rpn" else 3, size, args.batch, device)
    instances = [make_boxes(size, args.boxes, device) for _ in range(args.batch)]
    if line.kind == "rpn":
        model = build_rpn(guided, strides, line.proposals).to(device)
        head = model.rpn_head
        padded = (-(-s // 32) * 32 for s in size)
        pixels = torch.zeros(1, device=device).expand(args.batch, 3, *padded)
        images = ImageList(pixels, [size] * args.batch)

        def forward(training: bool) -> object:
            return model(images, maps, instances if training else None)
    else:
        model = build_retinanet(guided, maps, strides, device)
        head = model.head
        inputs = [
            {"image": torch.zeros(3, *size, dtype=torch.uint8, device=device), "instances": i}
            for i in instances
        ]

        def forward(training: bool) -> object:
            return model(inputs)

    if guided:
        model.eval()
        set_share(model, head, lambda: forward(False), args.share)
    model.train(line.mode == "training")
    if line.mode == "inference":

        def infer() -> None:
            with torch.no_grad(), autocast(args.precision, device):
                forward(False)

        return infer

    for x in maps.values():
        x.requires_grad_()

    def train() -> None:
        with EventStorage(0), autocast(args.precision, device):
            output = forward(True)
        losses = output if isinstance(output, dict) else output[1]
        sum(losses.values()).backward()
        model.zero_grad(set_to_none=True)
        for x in maps.values():
            x.grad = None

    return train


def measure_line(line: Line, args: argparse.Namespace) -> dict:
    """Seconds and peak memory of both sides."""
    steps = [make_step(line, guided, args) for guided in (False, True)]
    theirs, ours = take_turns(steps, args.repeats, args.device, limit=args.seconds)
    a, b = statistics.median(theirs), statistics.median(ours)
    memory = None
    if args.memory:
        memory = [memory_of(make_step, (line, guided, args), args) for guided in (False, True)]
    return {
        "name": line.name,
        "size": list(args.size),
        "batch": args.batch,
        "precision": args.precision,
        "detectron2_s": a,
        "ours_s": b,
        "ratio": b / a,
        "memory_mib": memory,
        "repeats": len(ours),
    }


def bar_of(line: Line, args: argparse.Namespace) -> float | None:
    """The highest accepted ratio; None where the setting has none."""
    plain = (args.device, args.batch, args.boxes, args.share, args.precision)
    if plain != ("cpu", 1, 60, 0.05, "float32"):
        return None
    return {(800, 1333): line.bar, SMALL: line.small_bar}.get(tuple(args.size))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, for this script and the comparison with MMDetection."""
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    parser.add_argument("--precision", choices=("float32", "amp"), default="float32")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=9)
    add_arguments(parser)
    parser.set_defaults(seconds=35)
    parser.add_argument("--small", action="store_const", const=SMALL, dest="size", help="200x333")
    parser.add_argument("--memory", action="store_true", help="peak memory, too")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    note = f"{args.batch} x {tuple(args.size)}, {args.boxes} boxes, {args.share:.0%} of cells pass"
    print(headline(machine, note, f"{args.repeats} repeats, medians") + "\n")
    table = Table("", "detectron2 (s)", "ours (s)", "ratio", "bar", "peak memory, ratio")
    results, above = [], []
    for line in [LINES[i] for i in args.lines]:
        found = measure_line(line, args)
        memory, bar = found["memory_mib"], bar_of(line, args)
        if bar is not None and round(found["ratio"], 2) > bar:
            above.append(line.name)
        table.add(
            line.name,
            number(found["detectron2_s"]),
            number(found["ours_s"]),
            f"{found['ratio']:.2f}",
            "" if bar is None else f"{bar:.2f}",
            f"{memory[1] / memory[0]:.2f}" if memory and memory[0] else "",
        )
        results.append({**found, "bar": bar})
        write_json(args.output, machine, results)
    if above:
        sys.exit(f"heads.py: above the bar: {'; '.join(above)}")


if __name__ == "__main__":
    main()
