"""Boxes in pictures: which are drawn, and where."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou

from ga_detectron2.visualization import (
    anchors_of_image,
    draw_ground_truth,
    draw_guided_anchors,
    draw_predictions,
    ground_truth_of,
    select_anchors,
)
from ga_detectron2.visualization.canvas import Canvas

from .batch import SIZES, make_guided

GREY = np.full((60, 80, 3), 127, np.uint8)


def drawn_box(picture: np.ndarray, scale: float) -> np.ndarray:
    """Bounds x1, y1, x2, y2, unscaled, of what was drawn on a grey picture."""
    rows, columns = np.nonzero((picture != 127).any(axis=2))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / scale


def one_anchor(cell: int, width: float, height: float):
    """An image with one likely cell, whose anchor has these sides relative to the square."""
    cells = sum(h * w for h, w in SIZES)
    logits, deltas = torch.full((1, cells), -9.0), torch.zeros(1, cells, 2)
    logits[0, cell] = 2.0
    deltas[0, cell] = torch.tensor([width, height]).log()
    return anchors_of_image(make_guided(logits, deltas), (30, 40))


@pytest.mark.parametrize("scale", [4.0, 7.5])
def test_anchor_is_drawn_at_scaled_coordinates(scale) -> None:
    # Row 2, column 3 of stride 8: centre (24, 16), square 32, so 16 by 24 in the network's input.
    anchors = one_anchor(2 * 8 + 3, 0.5, 0.75)
    picture = draw_guided_anchors(GREY, anchors, threshold=0.5, scale=scale)
    assert picture.shape == (60 * scale, 80 * scale, 3)
    # The image is twice as large as the network's input.
    expected = np.array([16, 4, 32, 28]) * 2
    # A line and its dark edge are a few pixels wide, half of them outside.
    np.testing.assert_allclose(drawn_box(picture, scale), expected, atol=4 / scale)


def test_anchor_beyond_the_image_is_cut_off() -> None:
    picture = draw_guided_anchors(GREY, one_anchor(0, 1.0, 1.0), threshold=0.5, scale=4)
    assert picture.shape == (240, 320, 3)
    np.testing.assert_allclose(drawn_box(picture, 4), [0, 0, 32, 32], atol=1)


def test_likeliest_kept_cells_are_selected(guided) -> None:
    anchors = anchors_of_image(guided, (40, 56))
    probability = guided.loc_logits[0].sigmoid()
    threshold = float(probability.sort().values[20])
    selected = select_anchors(anchors, threshold, 7, max_overlap=1)
    assert selected.tolist() == probability.topk(7).indices.tolist()
    # A probability equal to the threshold passes.
    every = select_anchors(anchors, threshold, None, max_overlap=1)
    assert len(every) == len(probability) - 20


def test_no_kept_cell_draws_nothing(guided) -> None:
    anchors = anchors_of_image(guided, (30, 40))
    assert (draw_guided_anchors(GREY, anchors, threshold=1.0) == GREY).all()


def test_similar_anchors_are_selected_once(guided) -> None:
    anchors = anchors_of_image(guided, (40, 56))
    cells = select_anchors(anchors, 0.05, None, max_overlap=0.5)
    overlap = pairwise_iou(*(Boxes(guided.anchors[0][x]) for x in (cells, slice(None))))
    assert (overlap[:, cells].triu(diagonal=1) <= 0.5).all()
    # Whatever is left out fails the filter, or overlaps with a likelier one that is selected.
    probability = guided.loc_logits[0].sigmoid()
    hidden = 0
    for cell in set(range(len(probability))) - set(cells.tolist()):
        likelier = probability[cells] >= probability[cell]
        is_hidden = (overlap[likelier, cell] > 0.5).any()
        assert is_hidden or probability[cell] < 0.05
        hidden += bool(is_hidden)
    assert hidden > 5


def detections() -> Instances:
    instances = Instances((60, 80))
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 12, 50, 40], [2, 2, 9, 9]]))
    instances.scores = torch.tensor([0.9, 0.2])
    instances.pred_classes = torch.tensor([1, 0])
    return instances


def test_detection_is_drawn_at_scaled_coordinates() -> None:
    picture = draw_predictions(GREY, detections(), score_thresh=0.5, scale=8)
    # The label lies within so large a box.
    np.testing.assert_allclose(drawn_box(picture, 8), [10, 12, 50, 40], atol=0.5)


def test_detections_below_the_threshold_are_left_out() -> None:
    one = draw_predictions(GREY, detections()[:1], scale=4)
    assert (draw_predictions(GREY, detections(), score_thresh=0.5, scale=4) == one).all()
    assert (draw_predictions(GREY, detections(), max_boxes=1, scale=4) == one).all()
    assert (draw_predictions(GREY, detections(), score_thresh=0.2, scale=4) != one).any()
    assert (draw_predictions(GREY, detections(), score_thresh=1.0) == GREY).all()


def test_score_of_a_proposal_is_a_probability() -> None:
    proposals = Instances((60, 80))
    proposals.proposal_boxes = detections().pred_boxes
    proposals.objectness_logits = torch.tensor([0.0, 3.0])
    second = draw_predictions(GREY, proposals[1:], scale=4)
    assert (draw_predictions(GREY, proposals, score_thresh=0.51, scale=4) == second).all()
    assert (draw_predictions(GREY, proposals, score_thresh=0.5, scale=4) != second).any()


def test_masks_and_keypoints_are_scaled() -> None:
    instances = detections()[:1]
    instances.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    instances.pred_masks[0, 15:35, 60:75] = True
    picture = draw_predictions(GREY, instances, scale=4)
    np.testing.assert_allclose(drawn_box(picture, 4), [10, 12, 75, 40], atol=1.5)


def test_ground_truth_has_no_crowds() -> None:
    record = {
        "annotations": [
            {"bbox": [10, 12, 40, 28], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2}
            | {"iscrowd": 0, "segmentation": [[10, 12, 50, 12, 50, 40]]},
            {"bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
            | {"iscrowd": 1, "segmentation": {"counts": "", "size": [60, 80]}},
        ]
    }
    truth = ground_truth_of(record, GREY)
    assert truth.gt_boxes.tensor.tolist() == [[10, 12, 50, 40]]
    assert truth.gt_classes.tolist() == [2]
    picture = draw_ground_truth(GREY, truth, scale=8)
    np.testing.assert_allclose(drawn_box(picture, 8), [10, 12, 50, 40], atol=0.5)


def label_extents(canvas: Canvas) -> list:
    renderer = canvas.output.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in canvas.output.ax.texts]


@pytest.mark.parametrize("position", [(79 * 4, 59 * 4), (-20, -20), (100, 230)])
def test_label_lies_within_the_picture(position) -> None:
    canvas = Canvas(GREY, scale=4)
    canvas.draw_text("triangle 100%", position, horizontal_alignment="left")
    (extent,) = label_extents(canvas)
    assert extent.x0 >= 0
    assert extent.y0 >= 0
    assert extent.x1 <= 320
    assert extent.y1 <= 240


def test_labels_of_neighbours_do_not_overlap() -> None:
    canvas = Canvas(np.full((100, 120, 3), 127, np.uint8), scale=4)
    for x, y in ((200, 200), (210, 205), (150, 195), (205, 210)):
        canvas.draw_text("triangle 52%", (x, y), horizontal_alignment="left")
    extents = label_extents(canvas)
    for i, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[:i])


@pytest.mark.parametrize("name", ["$5^$ note", "Ba$$in", r"\frac{", "a_b^c"])
def test_special_characters_in_class_names_are_drawn_as_they_are(name) -> None:
    canvas = Canvas(GREY, scale=4)
    canvas.draw_text(name, (10, 10), horizontal_alignment="left")
    (text,) = canvas.output.ax.texts
    assert not text.get_parse_math()
    assert (canvas.image() != 127).any()
