"""Comparison of results, by hand."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from ga_detectron2.export import compare_results

BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [5, 5, 20, 20]])


def results(boxes=BOXES, scores=(0.9, 0.8, 0.7), classes=(0, 1, 2)) -> Instances:
    return Instances(
        (32, 32),
        pred_boxes=Boxes(boxes),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def test_the_same_in_another_order():
    order = [2, 0, 1]
    moved = BOXES + torch.tensor([0.0, 0, 0, 0.25])
    found = results(moved[order], (0.7, 0.9, 0.804), (2, 0, 1))
    differences = compare_results(found, results())
    assert differences[:3] == (3, 3, 0)
    assert differences.box == 0.25
    assert differences.score == pytest.approx(0.004, abs=1e-6)


def test_what_has_no_partner():
    assert compare_results(results(classes=(0, 1, 3)), results()).unmatched == 2
    assert compare_results(results(BOXES[:2], (0.9, 0.8), (0, 1)), results()).unmatched == 1
    assert compare_results(results(scores=(0.9, 0.8, 0.6)), results()).unmatched == 2
    far = BOXES + torch.tensor([[2.0], [0], [0]])
    assert compare_results(results(far), results()).unmatched == 2
    empty = results(BOXES[:0], (), ())
    assert compare_results(empty, results()) == (0, 3, 3, 0, 0, 0, 0)
    assert compare_results(empty, empty) == (0, 0, 0, 0, 0, 0, 0)


def test_proposals():
    def proposals(logits: list[float]) -> Instances:
        boxes = Boxes(BOXES[: len(logits)])
        return Instances((32, 32), proposal_boxes=boxes, objectness_logits=torch.tensor(logits))

    differences = compare_results(proposals([0.0, 9.0]), proposals([0.01, 9.0]))
    assert differences.unmatched == 0
    assert differences.score == pytest.approx(0.0025, rel=0.01)


def test_masks_and_keypoints_of_pairs():
    order = [2, 0, 1]
    mine, theirs = results(BOXES[order], (0.7, 0.9, 0.8), (2, 0, 1)), results()
    masks = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[1.0, 2, 0.5]], [[3, 4, 0.5]], [[5, 6, 0.5]]])
    theirs.pred_masks, theirs.pred_keypoints = masks, points
    mine.pred_masks, mine.pred_keypoints = masks[order].clone(), points[order].clone()
    assert compare_results(mine, theirs)[5:] == (0, 0)
    mine.pred_masks[1, 0, 2, 3] += 0.25
    mine.pred_keypoints[0, 0] += torch.tensor([0.0, 2, 4])  # 4 of the score
    assert compare_results(mine, theirs)[5:] == (pytest.approx(0.25), 2)
