"""What guided anchors cost over plain ones: the heads of both kinds, timed in the same run.

    python benchmarks/heads.py [--threads 2] [--repeats 9] [--share 0.05] [--device cpu]

Features of an R-50-FPN for one image of 800x1333, 60 boxes, 256 channels, random weights; the
location bias is set so that a share of the cells passes the filter. A line's two sides take turns,
repeat by repeat, so that whatever else the machine does meets both; the ratio is that of the
medians. The training step is forward, losses and backward to features and weights. Peak memory is
that of a process of its own.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from measure import (
    Table,
    add_common_arguments,
    describe,
    headline,
    in_own_process,
    peak_memory,
    take_turns,
    write_json,
)
from torch import nn

import ga_detectron2
from ga_detectron2 import add_ga_config
from ga_detectron2.model_zoo import get_config

CHANNELS = 256
NUM_CLASSES = 80


class Features(nn.Module):
    """A backbone that has its features already, so that a detector's time is its head's."""

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


def build_rpn(guided: bool, strides: dict[str, int], args: argparse.Namespace) -> nn.Module:
    if guided:
        cfg = get_config("ga_faster_R_50" if args.proposals else "ga_rpn_R_50")
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


def make_step(kind: str, mode: str, guided: bool, args: argparse.Namespace) -> Callable[[], None]:
    """A call that runs one side of one line once."""
    torch.manual_seed(0)
    size, device = tuple(args.size), args.device
    maps, strides = make_features(2 if kind == "rpn" else 3, size, args.batch, device)
    instances = [make_boxes(size, args.boxes, device) for _ in range(args.batch)]
    image_sizes = [size] * args.batch
    if kind == "rpn":
        model = build_rpn(guided, strides, args).to(device)
        head = model.rpn_head
        images = ImageList(torch.zeros(args.batch, 3, 1, 1, device=device), image_sizes)

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
    model.train(mode == "training")
    if mode == "inference":

        def infer() -> None:
            with torch.no_grad():
                forward(False)

        return infer

    for x in maps.values():
        x.requires_grad_()

    def train() -> None:
        with EventStorage(0):
            output = forward(True)
        losses = output if isinstance(output, dict) else output[1]
        sum(losses.values()).backward()
        model.zero_grad(set_to_none=True)
        for x in maps.values():
            x.grad = None

    return train


LINES = [
    ("GA-RPN head, inference", "rpn", "inference", False),
    ("GA-RPN head, training step, no proposals asked for", "rpn", "training", False),
    ("GA-RPN head, training step with proposals", "rpn", "training", True),
    ("GA-RetinaNet head, inference", "retinanet", "inference", False),
    ("GA-RetinaNet head, training step", "retinanet", "training", False),
]


def time_line(kind: str, mode: str, args: argparse.Namespace) -> list[list[float]]:
    steps = [make_step(kind, mode, guided, args) for guided in (False, True)]
    return take_turns(steps, args.repeats, args.device, limit=args.seconds)


def step_memory(kind: str, mode: str, guided: bool, args: argparse.Namespace) -> float:
    """MiB that one step takes beyond features and weights."""
    return peak_memory(make_step(kind, mode, guided, args), args.device)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=9)
    parser.add_argument("--share", type=float, default=0.05, help="of cells that pass the filter")
    parser.add_argument("--boxes", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--lines", type=int, nargs="*", default=range(len(LINES)))
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    machine = describe(args.device, args.threads)
    print(
        headline(
            machine,
            f"{args.batch} x {tuple(args.size)}, {args.boxes} boxes, {args.share:.0%} of the cells "
            f"pass, {args.repeats} repeats, medians\n",
        )
    )
    table = Table("", "detectron2 (s)", "ours (s)", "ratio", "peak memory, ratio")
    results = []
    for line in args.lines:
        name, kind, mode, args.proposals = LINES[line]
        theirs, ours = time_line(kind, mode, args)
        memory = None
        if mode == "training" and not args.no_memory:
            memory = [
                in_own_process(step_memory, kind, mode, guided, args, threads=args.threads)
                for guided in (False, True)
            ]
        a, b = statistics.median(theirs), statistics.median(ours)
        share = f"{memory[1] / memory[0]:.2f}" if memory else ""
        table.add(name, f"{a:.3f}", f"{b:.3f}", f"{b / a:.2f}", share)
        results.append({"name": name, "detectron2_s": theirs, "ours_s": ours, "memory_mib": memory})
        write_json(args.output, machine, results)


if __name__ == "__main__":
    main()
