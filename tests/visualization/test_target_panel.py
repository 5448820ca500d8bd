"""Pictures of targets show what training computes."""

import numpy as np
import pytest
import torch

from ga_detectron2.data.check.objects import settings_of
from ga_detectron2.engine import load_config
from ga_detectron2.visualization.style import color_of
from ga_detectron2.visualization.target_panel import draw_shape_targets, targets_of_image
from tests.small_models import CONFIG

SIZE = (128, 192)


@pytest.fixture(scope="module")
def settings():
    return settings_of(load_config(str(CONFIG.parent / "ga_rpn_R_18.yaml")))


def test_regions_of_one_box_by_hand(settings) -> None:
    # 64 pixels: stride 16, whose square is as large. In cells it is (2, 1) to (6, 5).
    targets = targets_of_image(torch.tensor([[32.0, 16, 96, 80]]), SIZE, settings)
    assert targets.levels.tolist() == [2]
    maps = targets.location.level_maps(targets.location.probability)
    expected = np.zeros((8, 12))
    expected[2:5, 3:6] = 0.5  # the half: 3 to 5, 2 to 4
    expected[3, 4] = 1  # the fifth: 3.6 to 4.4 and 2.6 to 3.4, rounded
    assert (maps[2] == expected).all()
    assert [level.any() for level in maps] == [False, True, True, True, False]
    # A pixel in the centre, in the ignored region, outside.
    shown = targets.location.location_map(SIZE)
    assert (shown[48, 64], shown[30, 50], shown[120, 180]) == (1, 0.5, 0)
    # The square of the box's centre is the box.
    assert targets.best.iou.tolist() == [1]
    assert targets.best.anchors.tolist() == [[32, 16, 96, 80]]


def test_cells_that_learn_the_shape(settings) -> None:
    boxes = torch.tensor([[32.0, 16, 96, 80], [150, 100, 152, 102]])
    targets = targets_of_image(boxes, SIZE, settings)
    learned = targets.location.centers[targets.shape_boxes == 0]
    assert [64, 48] in learned.tolist()
    assert (targets.shape_boxes != 1).all()  # 4 pixels of the smallest square's 256
    black = np.zeros((256, 384, 3), np.uint8)
    picture = draw_shape_targets(black, 2 * boxes.numpy(), targets)
    center = picture[48 * 2, 64 * 2] / 255
    np.testing.assert_allclose(center, color_of(2), atol=0.02)
    around = picture[196:208, 296:310].reshape(-1, 3) / 255
    assert np.abs(around - color_of(4)).sum(axis=1).min() < 0.2


def test_image_without_objects(settings) -> None:
    targets = targets_of_image(torch.zeros(0, 4), SIZE, settings)
    assert not targets.location.probability.any()
    assert (targets.shape_boxes == -1).all()
