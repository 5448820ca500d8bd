"""The geometry of :class:`GuidedAnchoring` and the checks of its arguments."""

import logging

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from ga_detectron2.modeling import GuidedAnchoring, MatchRule

STRIDES = (8, 16, 32)
SIZES = ((13, 17), (7, 9), (4, 5))
CPU = torch.device("cpu")


def make_settings(**changes) -> GuidedAnchoring:
    rule = MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
    return GuidedAnchoring(**{"strides": STRIDES, "base_scale": 4, "shape_rule": rule} | changes)


def test_approximate_anchors_are_those_of_detectron2s_anchor_generator():
    settings = make_settings()
    generator = DefaultAnchorGenerator(
        sizes=[[4 * s * 2 ** (i / 3) for i in range(3)] for s in STRIDES],
        aspect_ratios=[[0.5, 1.0, 2.0]],
        strides=STRIDES,
        offset=0.0,
    )
    levels = generator([torch.zeros(1, 1, *size) for size in SIZES])
    expected = torch.cat([x.tensor.unflatten(0, (-1, 9)) for x in levels])
    grid = settings.cell_grid(SIZES, CPU)
    cells = torch.randperm(len(grid.centers))
    found = settings.approximate_anchors(grid, cells.view(2, -1))
    assert found.shape == (2, len(cells) // 2, 9, 4)
    # The generator orders sizes first, which is no part of the method.
    key = (found.flatten(0, 1)[..., 2:] - found.flatten(0, 1)[..., :2]) @ torch.tensor([1.0, 1e-3])
    other = (expected[..., 2:] - expected[..., :2]) @ torch.tensor([1.0, 1e-3])
    found = found.flatten(0, 1).gather(1, key.argsort()[..., None].expand(-1, -1, 4))
    expected = expected.gather(1, other.argsort()[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(found, expected[cells])


def test_nearest_cells_by_brute_force():
    settings = make_settings()
    grid = settings.cell_grid(SIZES, CPU)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=generator) * torch.tensor([190.0, 157]) - 60
    boxes = torch.cat([corner, corner + torch.rand(500, 2, generator=generator) * 300 + 1], dim=1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centers < 0).any()
    level_of_cell = torch.searchsorted(torch.tensor(STRIDES).float(), grid.stride)
    distance = torch.cdist(centers, grid.centers)
    distance[settings.box_levels(boxes)[:, None] != level_of_cell] = torch.inf
    found = settings.nearest_cells(grid, boxes)
    assert found.dtype == torch.int64
    torch.testing.assert_close(distance.gather(1, found[:, None])[:, 0], distance.amin(dim=1))
    # Only the cells that start within an image of 97x130 pixels.
    distance[:, (grid.centers >= torch.tensor([130.0, 97])).any(dim=1)] = torch.inf
    found = settings.nearest_cells(grid, boxes, (97, 130))
    torch.testing.assert_close(distance.gather(1, found[:, None])[:, 0], distance.amin(dim=1))


def test_filter_keeps_cells_from_its_threshold_on():
    settings = make_settings(loc_filter_thresh=0.5)
    logits = (torch.arange(608) - 300.0).view(2, 304)
    assert torch.equal(settings.kept_cells(logits), logits >= 0)


def test_sizes_without_a_shape_target_are_logged_for_few_levels(caplog):
    with caplog.at_level(logging.WARNING):
        make_settings(strides=(4, 8, 16, 32, 64))
        assert not caplog.records
        make_settings(strides=(16,), base_scale=8)
    # By the nine approximate anchors of 128 to 203 pixels, and an IoU of 0.3.
    assert "smaller than about 70 or larger than about 370 pixels" in caplog.text


def test_anchors_of_bfloat16_outputs_are_not_rounded_further():
    settings = make_settings()
    deltas = torch.randn(2, 304, 2).bfloat16()
    of_bfloat16, of_float32 = (
        settings(SIZES, torch.zeros(2, 304), x).anchors for x in (deltas, deltas.float())
    )
    assert torch.equal(of_bfloat16, of_float32)
