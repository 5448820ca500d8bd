"""All targets of guided anchoring alone: time and memory against the number of boxes.

    python benchmarks/targets.py

Location: targets and weights of every cell. Shape: the best IoU of nine approximate anchors, the
assignment, the sample. Box: guided anchors against boxes, the assignment, the sample. Guided
anchors are squares with random shape outputs. benchmarks/mmdetection/compare.py lets MMDetection
assign the same boxes.

Memory is that of all tensors at their peak. The command fails if it exceeds bound_mib, which holds
for up to 500 boxes an image and images of up to 1333x1333.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence

import torch
from heads import make_boxes
from measure import Step, add_common_arguments, peak_allocated, size_of, take_turns
from report import Report, Row

from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling.anchors import cells_inside_images, make_guided_anchors
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.matching import Matches, MatchRule, match_anchors
from ga_detectron2.modeling.targets import pad_ground_truth, sample_cells

# For one image; a GPU compares more boxes with cells at a time.
BOUND_MIB = {"cpu": 64, "cuda": 192}
FURTHER_IMAGE_MIB = 24
PARTS = ("location", "shape", "box", "all")
STRIDES = (4, 8, 16, 32, 64)


def bound_mib(device: str, batch: int) -> float:
    """Upper bound on the peak memory of all targets of a batch, in MiB."""
    return BOUND_MIB[torch.device(device).type] + FURTHER_IMAGE_MIB * (batch - 1)


def level_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Cells of each level for an image that is padded to a multiple of 32."""
    height, width = (-(-s // 32) * 32 for s in size)
    return tuple((-(-height // s), -(-width // s)) for s in STRIDES)


def make_steps(size: tuple[int, int], boxes: int, batch: int, device: str) -> dict[str, Step]:
    """A call for each part."""
    torch.manual_seed(0)
    cfg = get_config("ga_rpn_R_50")
    guided = GuidedAnchoring.from_config(cfg, STRIDES)
    box_rule = MatchRule(
        tuple(cfg.MODEL.RPN.IOU_THRESHOLDS),
        tuple(cfg.MODEL.RPN.IOU_LABELS),
        cfg.MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU,
    )
    grid = guided.cell_grid(level_sizes(size), torch.device(device))
    truth = pad_ground_truth([make_boxes(size, boxes, device) for _ in range(batch)])
    inside = cells_inside_images(grid, [size] * batch)
    deltas = 0.3 * torch.randn(batch, inside.shape[1], 2, device=device)
    anchors = make_guided_anchors(grid.centers, grid.stride, deltas, guided.base_scale, (1.0, 1.0))

    def sample(matches: Matches) -> None:
        rpn = cfg.MODEL.RPN
        cells = sample_cells(matches.labels, rpn.BATCH_SIZE_PER_IMAGE, rpn.POSITIVE_FRACTION)
        truth.take(cells.take(matches.boxes))

    def location() -> None:
        guided.location_targets(grid, truth)

    def shape() -> None:
        sample(guided.match_cells(grid, inside, truth))

    def box() -> None:
        sample(match_anchors(anchors, inside, truth, box_rule))

    def everything() -> None:
        location()
        shape()
        box()

    return dict(zip(PARTS, (location, shape, box, everything), strict=True))


@torch.no_grad()
def measure_line(size: tuple[int, int], boxes: int, batch: int, args: argparse.Namespace) -> Row:
    steps = make_steps(size, boxes, batch, args.device)
    times = take_turns(list(steps.values()), args.repeats, args.device, limit=args.seconds)
    return {
        "size": size,
        "boxes": boxes,
        "batch": batch,
        "seconds": {k: statistics.median(x) for k, x in zip(steps, times, strict=True)},
        "memory_mib": peak_allocated(steps["all"], args.device),
        "bound_mib": bound_mib(args.device, batch),
        "repeats": len(times[0]),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_common_arguments(parser, repeats=15)
    parser.add_argument("--boxes", type=int, nargs="+", default=[1, 60, 500], help="an image")
    parser.add_argument(
        "--sizes", type=size_of, nargs="+", default=[(800, 1333), (1333, 1333)], metavar="HxW"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    report = Report(args.device, args.output, "medians")
    for size, boxes in itertools.product(args.sizes, args.boxes):
        report.add(measure_line(size, boxes, 1, args))
    if any(line["memory_mib"] > line["bound_mib"] for line in report.results):
        sys.exit("targets.py: more memory was taken than bound_mib")


if __name__ == "__main__":
    main()
