"""Location and shape maps against brute force: one pixel, one cell at a time."""

import matplotlib
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from ga_detectron2.visualization import anchors_of_image, draw_location
from ga_detectron2.visualization.maps import probability_limit

from .batch import INPUT_SIZE as INPUT

SIZE = (101, 139)


def nearest_cell(guided, level: int, x: float, y: float) -> int:
    """Index of the level's cell nearest to a point of the network's input."""
    start = sum(guided.grid.cells_per_level[:level])
    centers = guided.grid.centers[start : start + guided.grid.cells_per_level[level]]
    distance = (centers - torch.tensor([x, y])).norm(dim=1)
    return start + int(distance.argmin())


def pixels():
    """Some pixels (row, column) of the picture, with their places in the network's input."""
    for row in range(0, SIZE[0], 7):
        for column in range(0, SIZE[1], 7):
            yield row, column, (column + 0.5) * INPUT[1] / SIZE[1], (row + 0.5) * INPUT[0] / SIZE[0]


@pytest.mark.parametrize("level", [0, 1, None])
def test_pixel_has_probability_of_nearest_cell(guided, level) -> None:
    picture = anchors_of_image(guided, INPUT, 1).location_map(SIZE, level)
    probability = guided.loc_logits[1].sigmoid()
    assert picture.shape == SIZE
    levels = (0, 1) if level is None else (level,)
    for row, column, x, y in pixels():
        expected = max(float(probability[nearest_cell(guided, i, x, y)]) for i in levels)
        assert picture[row, column] == pytest.approx(expected, rel=1e-6)


def test_anchors_scale_by_the_image_not_by_the_padded_batch(guided) -> None:
    expected = Boxes(guided.anchors[1].clone())
    expected.scale(SIZE[1] / INPUT[1], SIZE[0] / INPUT[0])
    anchors = anchors_of_image(guided, INPUT, 1)
    actual = anchors.boxes * np.tile(anchors.scale_to(SIZE), 2)
    np.testing.assert_allclose(actual, expected.tensor.numpy(), rtol=1e-5)


def test_shape_is_that_of_the_likeliest_level(guided) -> None:
    threshold = 0.1
    ratio, kept = anchors_of_image(guided, INPUT, 1).shape_map(SIZE, threshold)
    probability = guided.loc_logits[1].sigmoid()
    for row, column, x, y in pixels():
        best = max((nearest_cell(guided, i, x, y) for i in (0, 1)), key=lambda c: probability[c])
        # Squares are as wide as high, so the ratio is that of the two exponentials.
        dw, dh = guided.shape_deltas[1, best].tolist()
        assert ratio[row, column] == pytest.approx(np.exp(dw - dh), rel=1e-4)
        assert kept[row, column] == (probability[best] >= threshold)
    assert kept.any()
    assert not kept.all()


def test_colors_are_those_of_the_scale(guided) -> None:
    grey = np.full((*SIZE, 3), 128, np.uint8)
    anchors = anchors_of_image(guided, INPUT, 1)
    drawn = draw_location(grey, anchors, vmax=0.8)
    # What matplotlib makes of the same values, seen through to a grey of 128.
    image = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 0.8, clip=True), "inferno")
    expected = 0.7 * image.to_rgba(anchors.location_map(SIZE))[..., :3] + 0.3 * 0.5
    np.testing.assert_allclose(drawn / 255, expected, atol=1.5 / 255)


@pytest.mark.parametrize(
    ("highest", "limit"), [(0.004, 0.01), (0.01, 0.01), (0.011, 0.02), (0.51, 1.0)]
)
def test_scale_ends_at_a_round_number(highest, limit) -> None:
    assert probability_limit(highest) == limit


def test_padded_input_size_is_refused(guided) -> None:
    with pytest.raises(ValueError, match="without padding"):
        anchors_of_image(guided, (49, 50), 1)
