"""What plots are made from."""

import numpy as np
import torch

from ga_detectron2.visualization import (
    BoxShapes,
    RecallCurve,
    measure_shapes,
    plot_box_shapes,
    plot_dataset_shapes,
    plot_recall_curves,
)
from ga_detectron2.visualization.style import color_of

from .batch import BASE_SCALE, SETTINGS, SIZES, STRIDES, make_guided


def colors_in(picture: np.ndarray) -> int:
    """Pixels that are neither white, grey nor black."""
    return int((np.ptp(picture.astype(int), axis=2) > 60).sum())


def test_recall_curves() -> None:
    curves = [RecallCurve("$RPN", [10, 100], [5, 20]), RecallCurve("GA", [10, 100], [10, 30])]
    both, one = plot_recall_curves(curves, "$"), plot_recall_curves(curves[:1])
    assert colors_in(both) > 1.5 * colors_in(one) > 0


def test_shapes_are_measured_at_the_nearest_cell_of_the_level_of_an_object() -> None:
    # Row 2, column 3 of the first level; and row 1, column 2 of the second, with a square of 64.
    first, second = 2 * 8 + 3, 6 * 8 + 1 * 4 + 2
    deltas = torch.zeros(1, sum(h * w for h, w in SIZES), 2)
    deltas[0, first] = torch.tensor([0.5, 0.75]).log()
    deltas[0, second] = torch.tensor([1.0, 0.5]).log()
    guided = make_guided(torch.zeros_like(deltas[..., 0]), deltas)
    truth = torch.tensor([[17.0, 5, 33, 29], [0, 0, 64, 32]])  # off by (1, 1), and on (32, 16)
    shapes = measure_shapes(guided, truth, SETTINGS)
    np.testing.assert_allclose(shapes.truth, [[16, 24], [64, 32]])
    np.testing.assert_allclose(shapes.guided, [[16, 24], [64, 32]], rtol=1e-5)
    assert shapes.square.tolist() == [BASE_SCALE * s for s in STRIDES]
    shared = 15 * 23
    np.testing.assert_allclose(shapes.guided_iou, [shared / (2 * 16 * 24 - shared), 1], rtol=1e-5)
    # The square of 64 reaches to (0, -16), (64, 48).
    np.testing.assert_allclose(shapes.square_iou[1], 0.5, rtol=1e-5)


def test_box_shapes_are_plotted() -> None:
    sizes = np.array([[10.0, 20], [40, 10]])
    part = BoxShapes(sizes, sizes * 1.1, np.array([32.0, 32]), np.ones(2), np.ones(2) / 2)
    both = BoxShapes.join([part, part])
    assert both.truth.shape == (4, 2)
    assert colors_in(plot_box_shapes(both)) > 100


def test_dataset_plot_colors_objects_by_level() -> None:
    # 64 pixels: the second level, whose square is as large.
    plot = plot_dataset_shapes(torch.tensor([[0.0, 0, 64, 64]]).repeat(6000, 1), SETTINGS, "$name")
    points = plot[100:, 100:650].reshape(-1, 3) / 255  # without the legend
    near = [np.abs(points - color_of(i)).sum(axis=1).min() < 0.15 for i in range(2)]
    assert near == [False, True]
