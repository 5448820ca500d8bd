"""Targets take little memory, however many boxes, and cells that pass, however many pass.

What targets take on a GPU is measured on a CPU: the same branches, and as many pairs at a time.
"""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling import matching, sparse_conv
from ga_detectron2.modeling.anchors import cells_inside_images, make_cell_grid, make_guided_anchors
from ga_detectron2.modeling.feature_adaption import FeatureRows
from ga_detectron2.modeling.matching import MatchRule, match_anchors, match_approximate_anchors
from ga_detectron2.modeling.retinanet import GARetinaNetHead
from ga_detectron2.modeling.targets import location_targets, pad_ground_truth

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from measure import peak_allocated
from targets import bound_mib

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


def large_boxes(number: int) -> Boxes:
    """Three quarters of the image wide and high, all over each other."""
    generator = torch.Generator().manual_seed(0)
    center = SIDE / 2 + 333 * (torch.rand(number, 2, generator=generator) - 0.5)
    return Boxes(torch.cat([center - 500, center + 500], dim=1))


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device whose way to targets is taken, on a CPU."""
    if request.param == "cuda":
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        pairs = matching.PAIRS_PER_CHUNK
        monkeypatch.setitem(pairs, "cpu", pairs["cuda"])
    return request.param


def spread_anchors(images: int, shape: float) -> torch.Tensor:
    """Guided anchors around the squares, times exp of ``shape``."""
    generator = torch.Generator().manual_seed(0)
    deltas = shape + torch.randn(images, len(GRID.centers), 2, generator=generator)
    return make_guided_anchors(GRID.centers, GRID.stride, deltas, 8, (1.0, 1.0))


def peak_of_box_targets(boxes: Boxes, anchors: torch.Tensor, name: str) -> float:
    images = len(anchors)
    ground_truth = pad_ground_truth([Instances((SIDE, SIDE), gt_boxes=boxes)] * images)
    inside = cells_inside_images(GRID, [(SIDE, SIDE)] * images)
    return peak_allocated(lambda: match_anchors(anchors, inside, ground_truth, RULES[name]), "cpu")


@pytest.mark.parametrize(
    ("images", "shape"), [(2, 0.0), (1, 4.0)], ids=["two images", "every anchor touches every box"]
)
def test_memory_of_all_targets_is_bounded(device: str, images: int, shape: float) -> None:
    """In MiB at the peak of each, beyond what it is given."""
    boxes, anchors = some_boxes(60), spread_anchors(images, shape)
    ground_truth = pad_ground_truth([Instances((SIDE, SIDE), gt_boxes=boxes)] * images)
    inside = cells_inside_images(GRID, [(SIDE, SIDE)] * images)
    found = {
        "location": peak_allocated(
            lambda: location_targets(GRID, ground_truth, 8, 0.2, 0.5), "cpu"
        ),
        **{f"box, {name}": peak_of_box_targets(boxes, anchors, name) for name in RULES},
        "shape": peak_allocated(
            lambda: match_approximate_anchors(
                GRID, inside, ground_truth, RULES["rpn"], 8, 3, (0.5, 1.0, 2.0)
            ),
            "cpu",
        ),
    }
    assert all(0 < mib < bound_mib(device, images) for mib in found.values()), found


def test_memory_of_anchors_as_large_as_the_boxes_is_bounded(device: str) -> None:
    """Most pairs of a box and an anchor reach a threshold: 30 boxes' would take 100 MiB at once."""
    anchors = torch.cat([GRID.centers - 500, GRID.centers + 500], dim=1)[None]
    assert 0 < peak_of_box_targets(large_boxes(30), anchors, "rpn") < bound_mib(device, 1)


@pytest.mark.parametrize("share", [0.3, 1.0])
@torch.no_grad()
def test_memory_of_cells_that_pass_is_bounded(share: float) -> None:
    """Nine taps of all cells would be 148 MiB: a trained model has few, an untrained one all."""
    N, H, W, C = 8, 50, 84, 128
    cfg = get_config("ga_retinanet_R_50")
    cfg.MODEL.RETINANET.NUM_CLASSES = 40
    head = GARetinaNetHead(cfg, [ShapeSpec(channels=C)])
    chosen = torch.rand(N, H * W, generator=torch.Generator().manual_seed(0)) < share
    cells = sparse_conv.NeighboringCells.of(chosen, (H, W))
    features = FeatureRows(torch.randn(N, H * W, C), H, W)
    deltas = torch.zeros(N, H * W, 2)
    found = peak_allocated(lambda: head.classify_at(features, deltas, cells), "cpu")
    # What goes in is 16.4 MiB, and comes twice: adapted and in order, beside one chunk's taps.
    assert 16.4 < found < 3 * 16.4, found
