"""Closed forms of IoU against a search over all cells and a fine grid of shapes."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from ga_detectron2.data.check.advice import _sample, try_settings
from ga_detectron2.data.check.fit import centered_iou, centers_of_nearest_cells, fit, ideal_iou
from ga_detectron2.data.check.objects import InputSize, Objects, with_changes
from ga_detectron2.data.check.statistics import (
    RATIO_BINS,
    fit_by_ratio,
    objects_by_level,
    objects_sharing_a_cell,
)
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.matching import MatchRule

RULE = MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
SETTINGS = GuidedAnchoring(strides=(4, 8, 16), base_scale=4, shape_rule=RULE)
WIDTH, HEIGHT = 150, 101


def make_objects(count: int, seed: int = 0) -> Objects:
    """Boxes of any shape within an image of WIDTH x HEIGHT pixels."""
    random = np.random.default_rng(seed)
    limits = np.array([WIDTH, HEIGHT])
    sizes = np.minimum(np.exp(random.uniform(math.log(2), math.log(140), (count, 2))), limits)
    corners = random.uniform(0, 1, (count, 2)) * (limits - sizes)
    boxes = torch.from_numpy(np.hstack([corners, corners + sizes])).float()
    return Objects(
        boxes,
        torch.tensor([[WIDTH, HEIGHT]]).float().repeat(count, 1),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
    )


def search_best(objects: Objects, anchors_of_stride) -> np.ndarray:
    """Of each box the best IoU with any anchor on any cell, one after the other."""
    anchors = []
    for stride in SETTINGS.strides:
        for y in range(0, HEIGHT, stride):
            for x in range(0, WIDTH, stride):
                for w, h in anchors_of_stride(stride):
                    anchors.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    iou = pairwise_iou(Boxes(objects.boxes), Boxes(torch.tensor(anchors)))
    return iou.amax(dim=1).numpy()


def fixed(scales: int, ratios) -> object:
    def anchors_of_stride(stride: int) -> list[tuple[float, float]]:
        sides = [SETTINGS.base_scale * stride * 2 ** (i / scales) for i in range(scales)]
        return [(a / r**0.5, a * r**0.5) for a in sides for r in ratios]

    return anchors_of_stride


def test_fixed_anchors_against_a_search_over_all_cells() -> None:
    objects = make_objects(80)
    found = fit(objects, SETTINGS)
    kinds = {
        "square": fixed(1, (1.0,)),
        "three_ratios": fixed(1, (0.5, 1.0, 2.0)),
        "approximate": fixed(3, (0.5, 1.0, 2.0)),
    }
    for name, anchors in kinds.items():
        expected = search_best(objects, anchors)
        np.testing.assert_allclose(getattr(found, name).numpy(), expected, atol=2e-6)


def test_ideal_anchor_against_a_search_over_cells_and_shapes() -> None:
    objects = make_objects(12, seed=1)
    found = fit(objects, SETTINGS).ideal
    for box, ideal in zip(objects.boxes.tolist(), found.tolist(), strict=True):
        w, h = box[2] - box[0], box[3] - box[1]
        # DESIGN's rule: the level whose square is nearest in octaves.
        level = math.floor(math.log2(math.sqrt(w * h)) - math.log2(16) + 0.5)
        stride = SETTINGS.strides[min(max(level, 0), 2)]
        # The middle of a step is nearest to a value in it: the search may miss by half a step.
        widths, heights = (np.geomspace(side / 3, side * 5, 240) for side in (w, h))
        x, y = np.meshgrid(np.arange(0, WIDTH, stride), np.arange(0, HEIGHT, stride))
        best = 0.0
        for cx, cy in zip(x.ravel(), y.ravel(), strict=True):
            if abs(cx - (box[0] + box[2]) / 2) > stride or abs(cy - (box[1] + box[3]) / 2) > stride:
                continue
            left, right = np.maximum(cx - widths / 2, box[0]), np.minimum(cx + widths / 2, box[2])
            top, bottom = np.maximum(cy - heights / 2, box[1]), np.minimum(cy + heights / 2, box[3])
            shared = np.outer((right - left).clip(0), (bottom - top).clip(0))
            best = max(best, (shared / (w * h + np.outer(widths, heights) - shared)).max())
        assert best <= ideal + 1e-5
        assert ideal - best < 0.02


def test_ideal_is_a_bound_for_any_anchor_on_the_same_centre() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, anchors = (torch.rand(20000, 2, generator=generator) * 20 + 0.5 for _ in range(2))
    away = torch.rand(20000, 2, generator=generator) * 8
    assert (centered_iou(sizes, away, anchors) <= ideal_iou(sizes, away) + 1e-6).all()


def test_nearest_cells_lie_within_the_image() -> None:
    boxes = torch.tensor([[140.0, 90, 150, 101], [120.0, 90, 150, 101]])
    settings = with_changes(SETTINGS, strides=(4, 16, 64))
    centers = centers_of_nearest_cells(boxes, torch.tensor([[150.0, 101], [120, 101]]), settings)
    # Columns 0 to 37, 9, 2 and rows 0 to 25, 6, 1 lie within the first image.
    assert centers[0].tolist() == [[144, 96], [144, 96], [128, 64]]
    assert centers[1, 1].tolist() == [7 * 16, 96]


def test_statistics_by_hand() -> None:
    sides = [(16, 16), (4, 4), (64, 64), (100, 100), (8, 80), (80, 8), (16, 32)]
    boxes = torch.tensor([[40.0, 40, 40 + w, 40 + h] for w, h in sides])
    images = torch.tensor([0, 0, 0, 0, 0, 0, 1])
    objects = Objects(boxes, torch.full((7, 2), 200.0), images, torch.arange(7))
    found = objects_by_level(objects, SETTINGS)
    assert [x["square"] for x in found] == [16, 32, 64]
    # sqrt(8 * 80) = 25.3 and sqrt(16 * 32) = 22.63, at or above the border at 16 * sqrt(2).
    assert [x["objects"] for x in found] == [2, 3, 2]
    by_ratio = [sum(x[name] for x in found) for name in RATIO_BINS]
    assert by_ratio == [1, 0, 1, 4, 0, 0, 1]
    fitted = fit_by_ratio(objects, fit(objects, SETTINGS))
    assert [row["objects"] for row in fitted] == [*by_ratio, 7]
    assert fitted[5]["ideal guided"] is None
    trial = try_settings(objects, InputSize(0, 0), SETTINGS)
    # The box of 4 pixels has at most 1/16 of the smallest square.
    assert 1 / 7 <= trial.without_target < 0.5
    assert trial.score < trial.ideal


def test_objects_that_share_a_cell() -> None:
    boxes = torch.tensor([[10.0, 10, 26, 26], [11, 11, 25, 25], [30, 10, 46, 26], [10, 10, 26, 26]])
    images = torch.tensor([0, 0, 0, 1])
    objects = Objects(boxes, torch.full((4, 2), 99.0), images, torch.arange(4))
    assert objects_sharing_a_cell(objects, SETTINGS) == 2


def test_sample_keeps_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ga_detectron2.data.check.advice.MAX_OBJECTS", 30)
    objects = make_objects(100)
    sample = _sample(objects)
    assert len(sample.boxes) == len(sample.annotation_of.unique()) == 30
    assert torch.equal(objects.boxes[sample.annotation_of], sample.boxes)
