"""Time of the guided heads against detectron2's own, taking turns in one run.

    python benchmarks/heads.py --repeats 5            about 3 minutes on two CPU cores
    python benchmarks/heads.py --repeats 5 --small    images of 200x333

Features of an R-50-FPN for one image of 800x1333, 60 boxes, 256 channels, random weights; the
location bias is set so that a share of the cells passes the filter. A training step is forward,
losses and backward to features and weights. Ratios are those of medians; no repeat of a line begins
after 35 s (--seconds). Memory is that of all tensors at their peak. At the default setting on a CPU
the command fails if a ratio is above its bar.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2 import model_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from measure import PRECISIONS, Step, add_common_arguments, autocast, peak_allocated, take_turns
from report import Report, Row
from torch import nn

import ga_detectron2
from ga_detectron2.model_zoo import get_config

CHANNELS = 256
NUM_CLASSES = 80
SHARE = 0.05
SMALL = (200, 333)
TWINS = {
    "rpn": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}


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

    def __init__(self, maps: dict[str, torch.Tensor]):
        super().__init__()
        self.maps = maps

    def forward(self, _images: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.maps


def make_features(
    kind: str, size: tuple[int, int], batch: int, device: str
) -> dict[str, torch.Tensor]:
    """Maps of five levels of an FPN, such as ``p3`` of stride 8, for images of a size."""
    height, width = (-(-s // 32) * 32 for s in size)
    first = 2 if kind == "rpn" else 3
    maps = {}
    for level in range(first, first + 5):
        shape = (batch, CHANNELS, -(-height >> level), -(-width >> level))
        maps[f"p{level}"] = torch.randn(shape, device=device).relu_()
    return maps


def make_boxes(
    size: tuple[int, int], number: int, device: str, num_classes: int = NUM_CLASSES
) -> Instances:
    """Boxes from 16 to 500 pixels, evenly over the octaves, of ratios from 1:3 to 3:1."""
    height, width = size
    sides = 16 * (500 / 16) ** torch.rand(number)
    ratio = 3 ** (2 * torch.rand(number) - 1)
    wh = torch.stack([sides * ratio.sqrt(), sides / ratio.sqrt()], dim=1)
    center = torch.rand(number, 2) * torch.tensor([width, height])
    boxes = Boxes(torch.cat([center - wh / 2, center + wh / 2], dim=1))
    boxes.clip(size)
    boxes = boxes[boxes.nonempty(8)]
    classes = torch.randint(num_classes, (len(boxes),))
    return Instances(size, gt_boxes=boxes, gt_classes=classes).to(device)


def build_head(line: Line, guided: bool, maps: dict[str, torch.Tensor], device: str) -> nn.Module:
    """A proposal generator, or a RetinaNet whose backbone returns ``maps``."""
    if guided:
        cfg = get_config("ga_faster_R_50" if line.proposals else f"ga_{line.kind}_R_50")
    else:
        cfg = model_zoo.get_config(TWINS[line.kind])
        cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 2000
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    cfg.MODEL.DEVICE = device
    cfg.MODEL.FPN.OUT_CHANNELS = CHANNELS
    if line.kind == "rpn":
        shapes = {k: ShapeSpec(channels=CHANNELS, stride=2 ** int(k[1:])) for k in maps}
        return build_proposal_generator(cfg, shapes).to(device)
    model = build_model(cfg)
    model.backbone = Features(maps)
    return model


def set_share(model: nn.Module, forward: Callable[[], object], share: float) -> None:
    """Shift the location bias so that this share of the cells passes the filter."""
    head = next(x for x in model.modules() if hasattr(x, "anchor_loc"))
    with torch.no_grad(), ga_detectron2.record_guided_anchors(model) as records:
        forward()
        logits = records[0].loc_logits.flatten()
        threshold = torch.logit(torch.tensor(0.01))
        head.anchor_loc.bias += threshold - logits.float().quantile(1 - share).cpu()


def make_step(line: Line, guided: bool, args: argparse.Namespace) -> Step:
    """A call that runs one side of one line once."""
    torch.manual_seed(0)
    size, device = tuple(args.size), args.device
    maps = make_features(line.kind, size, args.batch, device)
    instances = [make_boxes(size, args.boxes, device) for _ in range(args.batch)]
    model = build_head(line, guided, maps, device)
    if line.kind == "rpn":
        padded = (-(-s // 32) * 32 for s in size)
        pixels = torch.zeros(1, device=device).expand(args.batch, 3, *padded)
        images = ImageList(pixels, [size] * args.batch)

        def forward(training: bool) -> object:
            return model(images, maps, instances if training else None)
    else:
        inputs = [
            {"image": torch.zeros(3, *size, dtype=torch.uint8, device=device), "instances": i}
            for i in instances
        ]

        def forward(training: bool) -> object:
            return model(inputs)

    if guided:
        model.eval()
        set_share(model, lambda: forward(False), args.share)
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


def measure_line(line: Line, args: argparse.Namespace) -> Row:
    """Seconds and peak memory of both sides."""
    steps = [make_step(line, guided, args) for guided in (False, True)]
    theirs, ours = take_turns(steps, args.repeats, args.device, limit=args.seconds)
    a, b = statistics.median(theirs), statistics.median(ours)
    return {
        "name": line.name,
        "size": list(args.size),
        "batch": args.batch,
        "precision": args.precision,
        "detectron2_s": a,
        "ours_s": b,
        "ratio": b / a,
        **memory_of(steps, args),
        "repeats": len(ours),
    }


def memory_of(steps: Sequence[Step], args: argparse.Namespace) -> Row:
    """Peak memory of detectron2's step and of ours, where it is asked for."""
    if not args.memory:
        return {"memory_mib": None, "memory_ratio": None}
    theirs, ours = (peak_allocated(step, args.device) for step in steps)
    return {"memory_mib": [theirs, ours], "memory_ratio": ours / theirs}


def bar_of(line: Line, args: argparse.Namespace) -> float | None:
    """The highest accepted ratio; None where the setting has none."""
    plain = (args.device, args.batch, args.boxes, args.share, args.precision)
    if plain != ("cpu", 1, 60, SHARE, "float32"):
        return None
    return {(800, 1333): line.bar, SMALL: line.small_bar}.get(tuple(args.size))


def make_parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """Options of this script and of the comparison with MMDetection."""
    parser = argparse.ArgumentParser(description=description)
    add_common_arguments(parser, repeats)
    parser.add_argument("--share", type=float, default=SHARE, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--memory", action="store_true", help="peak memory, too")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__.split("\n")[0], repeats=9)
    parser.set_defaults(seconds=35)
    parser.add_argument("--small", action="store_const", const=SMALL, dest="size", help="200x333")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    report = Report(args.device, args.output, f"{args.boxes} boxes, {args.share:.0%} of cells pass")
    above = []
    for line in [LINES[i] for i in args.lines]:
        found, bar = measure_line(line, args), bar_of(line, args)
        report.add({**found, "bar": bar})
        if bar is not None and round(found["ratio"], 2) > bar:
            above.append(line.name)
    if above:
        sys.exit(f"heads.py: above the bar: {'; '.join(above)}")


if __name__ == "__main__":
    main()
