"""Whole detectors: images a second and peak memory, each published config against its twin.

    python benchmarks/models.py --models R_50 --seconds 60
    python benchmarks/models.py --device cuda --batch 1 8 --precision float32 amp --memory
    python benchmarks/models.py --size 192 192 --batch 8 --classes 6 --models \\
        configs/steel_defects/ga_rpn.yaml=configs/steel_defects/rpn_3_anchors.yaml

A twin is detectron2's own config of RPN, Faster R-CNN or RetinaNet with our config's backbone and
input, or a second file. Both get the same random images and boxes and take turns. Weights are
random; the location bias is set so that 5 % of the cells pass the filter. Detections start from a
score of 0.05, which random weights do not reach, so that neither side has detections to suppress.

A training step is forward, losses, backward and an update by SGD (with a learning rate of 0). amp
is autocast: float16 with loss scaling on a GPU, as detectron2 trains, bfloat16 on a CPU. Memory is
that of all tensors at their peak, beyond model and input.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from heads import NUM_CLASSES, SHARE, make_boxes, memory_of, set_share
from measure import PRECISIONS, Step, add_common_arguments, autocast, take_turns
from report import Report, Row
from torch import nn

from ga_detectron2.engine import load_config
from ga_detectron2.model_zoo import PUBLISHED_MODELS, get_config

TWINS = {
    "ga_rpn": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "ga_faster": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "ga_retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
MODES = ("inference", "training")
SAME_KEYS = ("PIXEL_MEAN", "PIXEL_STD", "RESNETS", "DEVICE")
SCORE_THRESHOLD = 0.05
# What the last norm of a residual block multiplies by. With 1, random weights double the variance
# at every block, which float16 does not survive.
RESIDUAL_SCALE = 0.2


def make_configs(name: str, args: argparse.Namespace) -> tuple[CfgNode, CfgNode]:
    """The configs of a published model and its twin, or those of ``GUIDED_FILE=OTHER_FILE``."""
    if "=" in name:
        cfg, twin = (load_config(path, args.opts) for path in name.split("=", 1))
        cfg.MODEL.DEVICE = twin.MODEL.DEVICE = args.device
    else:
        cfg = get_config(name)
        cfg.merge_from_list(list(args.opts))
        cfg.MODEL.DEVICE = args.device
        twin = model_zoo.get_config(next(v for k, v in TWINS.items() if name.startswith(k)))
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
    torch.manual_seed(0)
    size = tuple(args.size)
    return [
        {
            "image": torch.randint(256, (3, *size), dtype=torch.uint8),
            "instances": make_boxes(size, args.boxes, "cpu", args.classes),
        }
        for _ in range(batch)
    ]


def make_models(name: str, args: argparse.Namespace) -> list[nn.Module]:
    """The twin and ours, of whose cells a share passes the filter."""
    ours, theirs = (make_model(cfg).eval() for cfg in make_configs(name, args))
    set_share(ours, lambda: ours(make_inputs(args, 1)), SHARE)
    return [theirs, ours]


def make_step(
    model: nn.Module, mode: str, precision: str, inputs: list[dict[str, Any]], device: str
) -> Step:
    """A call that runs a batch through a model, in training with the update."""
    if mode == "inference":

        def infer() -> None:
            model.eval()
            with torch.no_grad(), autocast(precision, device):
                model(inputs)

        return infer

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=precision == "amp" and kind == "cuda")

    def train() -> None:
        model.train()
        with EventStorage(0), autocast(precision, device):
            losses = model(inputs)
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return train


def measure_model(name: str, args: argparse.Namespace) -> Iterator[Row]:
    """Every line of one config and its twin, as soon as it is measured."""
    models = make_models(name, args)
    for mode, precision, batch in itertools.product(MODES, args.precision, args.batch):
        inputs = make_inputs(args, batch)
        steps = [make_step(model, mode, precision, inputs, args.device) for model in models]
        times = take_turns(steps, args.repeats, args.device, limit=args.seconds)
        theirs, ours = (batch / statistics.median(x) for x in times)
        yield {
            "model": name,
            "mode": mode,
            "precision": precision,
            "batch": batch,
            "size": list(args.size),
            "detectron2_images_per_s": theirs,
            "ours_images_per_s": ours,
            "ratio": ours / theirs,
            **memory_of(steps, args),
            "repeats": len(times[0]),
        }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=5)
    parser.add_argument(
        "--models",
        nargs="*",
        default=[],
        help="parts of names, or GUIDED_FILE=OTHER_FILE; without, all published models",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--boxes", type=int, default=10, help="an image")
    parser.add_argument(
        "--classes", type=int, default=NUM_CLASSES, help="number of classes of the boxes"
    )
    parser.add_argument(
        "--equal-rois", action="store_true", help="the twin takes as many proposals as our config"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory, too")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values of every config"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    parts = args.models or [""]
    names = [x.name for x in PUBLISHED_MODELS if any(part in x.name for part in parts)]
    names += [part for part in parts if "=" in part]
    if not names:
        parser.error(f"no published model has {' or '.join(args.models)} in its name")
    torch.set_num_threads(args.threads)
    report = Report(args.device, args.output, f"{args.boxes} boxes, {SHARE:.0%} of the cells pass")
    for name in names:
        for line in measure_model(name, args):
            report.add(line)


if __name__ == "__main__":
    main()
