"""Targets take little memory, however many boxes there are."""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling import sparse_conv
from ga_detectron2.modeling.anchors import cells_inside_images, make_cell_grid, make_guided_anchors
from ga_detectron2.modeling.feature_adaption import FeatureRows
from ga_detectron2.modeling.matching import MatchRule, match_anchors, match_approximate_anchors
from ga_detectron2.modeling.retinanet import GARetinaNetHead
from ga_detectron2.modeling.targets import location_targets, pad_ground_truth

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from measure import peak_allocated

sys.path.pop(0)

SIDE = 1333
STRIDES = (4, 8, 16, 32, 64)
GRID = make_cell_grid(
    tuple((-(-SIDE // s), -(-SIDE // s)) for s in STRIDES), STRIDES, torch.device("cpu")
)
RULES = {
    "rpn": MatchRule((0.3, 0.7), (0, -1, 1), 0.3),
    "any IoU claims": MatchRule((0.5,), (0, 1), 0.0),
}
# A table of all 148,150 cells and 500 boxes alone would be 283 MiB, of nine anchors 2.5 GiB.
BOUND_MIB = 64


def some_boxes(number: int) -> Boxes:
    """From 8 pixels to most of the image, of ratios from 1:4 to 4:1."""
    generator = torch.Generator().manual_seed(0)
    sides = 8 * (1200 / 8) ** torch.rand(number, generator=generator)
    ratio = 2 ** (4 * torch.rand(number, generator=generator) - 2)
    half = torch.stack([sides * ratio.sqrt(), sides / ratio.sqrt()], dim=1) / 2
    center = SIDE * torch.rand(number, 2, generator=generator)
    boxes = Boxes(torch.cat([center - half, center + half], dim=1))
    boxes.clip((SIDE, SIDE))
    return boxes


@pytest.mark.parametrize(
    ("number", "shape"),
    [(60, 0.0), pytest.param(500, 0.0, marks=pytest.mark.slow), (60, 4.0)],
    ids=["60 boxes", "500 boxes", "every anchor touches every box"],
)
def test_memory_of_all_targets_is_bounded(number: int, shape: float) -> None:
    """In MiB at the peak of each, beyond what it is given."""
    ground_truth = pad_ground_truth([Instances((SIDE, SIDE), gt_boxes=some_boxes(number))])
    inside = cells_inside_images(GRID, [(SIDE, SIDE)])
    generator = torch.Generator().manual_seed(0)
    deltas = shape + torch.randn(1, len(GRID.centers), 2, generator=generator)
    anchors = make_guided_anchors(GRID.centers, GRID.stride, deltas, 8, (1.0, 1.0))
    found = {
        "location": peak_allocated(
            lambda: location_targets(GRID, ground_truth, 8, 0.2, 0.5), "cpu"
        ),
        **{
            f"box, {name}": peak_allocated(
                lambda rule=rule: match_anchors(anchors, inside, ground_truth, rule), "cpu"
            )
            for name, rule in RULES.items()
        },
        "shape": peak_allocated(
            lambda: match_approximate_anchors(
                GRID, inside, ground_truth, RULES["rpn"], 8, 3, (0.5, 1.0, 2.0)
            ),
            "cpu",
        ),
    }
    assert all(0 < mib < BOUND_MIB for mib in found.values()), found


@pytest.mark.parametrize("share", [0.3, 1.0])
@torch.no_grad()
def test_memory_of_cells_that_pass_is_bounded(share: float) -> None:
    """Nine taps of all cells would be 295 MiB: a trained model has few, an untrained one all."""
    N, H, W, C = 8, 50, 84, 256
    head = GARetinaNetHead(get_config("ga_retinanet_R_50"), [ShapeSpec(channels=C)])
    chosen = torch.rand(N, H * W, generator=torch.Generator().manual_seed(0)) < share
    cells = sparse_conv.NeighboringCells.of(chosen, (H, W))
    features = FeatureRows(torch.randn(N, H * W, C), H, W)
    deltas = torch.zeros(N, H * W, 2)
    found = peak_allocated(lambda: head.classify_at(features, deltas, cells), "cpu")
    # What goes in is 33 MiB, and comes twice: adapted and in order, beside one chunk's taps.
    assert 33 < found < 3 * 33, found
