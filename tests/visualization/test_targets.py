"""Pictures of targets say what training's functions say, and plots of a data set's shapes."""

import numpy as np
import pytest
import torch

from ga_detectron2.data.check.objects import Objects, settings_of
from ga_detectron2.engine import load_config
from ga_detectron2.visualization.dataset_shapes import plot_dataset_shapes
from ga_detectron2.visualization.image_anchors import anchors_of_image
from ga_detectron2.visualization.location import location_map
from ga_detectron2.visualization.style import color_of
from ga_detectron2.visualization.targets import draw_shape_targets, targets_of_image

from .conftest import PROJECT

SIZE = (128, 192)


@pytest.fixture(scope="module")
def settings():
    return settings_of(load_config(str(PROJECT / "configs" / "small" / "ga_rpn_R_18.yaml")))


def test_regions_of_one_box_by_hand(settings) -> None:
    # 64 pixels: stride 16, whose square is as large. In cells it is (2, 1) to (6, 5).
    box = torch.tensor([[32.0, 16, 96, 80]])
    targets = targets_of_image(box, SIZE, settings)
    assert targets.levels.tolist() == [2]
    maps = targets.location.split(targets.grid.cells_per_level)
    own = maps[2].reshape(8, 12)
    expected = torch.zeros(8, 12)
    expected[2:5, 3:6] = 0.5  # the half: 3 to 5, 2 to 4
    expected[3, 4] = 1  # the fifth: 3.6 to 4.4 and 2.6 to 3.4, rounded
    assert torch.equal(own, expected)
    assert (maps[1] == 0.5).any()
    assert (maps[3] == 0.5).any()
    assert not maps[0].any()
    assert not maps[4].any()
    # As a heat map over the image: a pixel in the centre, in the ignored region, outside.
    view = anchors_of_image(targets.as_guided_anchors(), 0, SIZE, SIZE)
    shown = location_map(view, SIZE)
    assert (shown[48, 64], shown[30, 50], shown[120, 180]) == (1, 0.5, 0)


def test_cells_that_learn_the_shape(settings) -> None:
    boxes = torch.tensor([[32.0, 16, 96, 80], [150, 100, 152, 102]])
    targets = targets_of_image(boxes, SIZE, settings)
    learned = targets.grid.centers[targets.shape_boxes == 0]
    assert [64, 48] in learned.tolist()  # The square of this cell is the box.
    assert (targets.shape_boxes != 1).all()  # 4 pixels of the smallest square's 256
    picture = draw_shape_targets(
        np.zeros((*SIZE, 3), np.uint8), boxes.numpy(), targets, SIZE, scale=2
    )
    assert picture.shape == (256, 384, 3)
    center = picture[48 * 2, 64 * 2] / 255
    np.testing.assert_allclose(center, color_of(2), atol=0.02)
    around = picture[196:208, 296:310].reshape(-1, 3) / 255
    assert np.abs(around - color_of(4)).sum(axis=1).min() < 0.2


def test_no_objects(settings) -> None:
    targets = targets_of_image(torch.zeros(0, 4), SIZE, settings)
    assert not targets.location.any()
    assert (targets.shape_boxes == -1).all()


def test_plot_shows_levels_that_have_objects(settings) -> None:
    boxes = torch.tensor([[0.0, 0, 64, 64]]).repeat(6000, 1)
    zeros = torch.zeros(6000, dtype=torch.int64)
    objects = Objects(boxes, torch.full((6000, 2), 99.0), zeros, zeros)
    plot = plot_dataset_shapes(objects, settings, "name")
    points = plot[80:, 115:740].reshape(-1, 3) / 255  # without the legend
    near = [np.abs(points - color_of(i)).sum(axis=1).min() < 0.15 for i in range(5)]
    assert near == [False, False, True, False, False]
    with pytest.raises(ValueError, match="no objects"):
        plot_dataset_shapes(Objects(*(x[:0] for x in objects)), settings)
