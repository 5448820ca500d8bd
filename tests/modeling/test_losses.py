"""Losses against closed forms in plain Python, finite differences, torchvision and detectron2."""

import math

import pytest
import torch
import torchvision
from detectron2.modeling.box_regression import Box2BoxTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ga_detectron2.modeling.anchors import make_cell_grid, make_guided_anchors
from ga_detectron2.modeling.losses import (
    BOX_LOSS_TYPES,
    bounded_iou_loss,
    box_deltas,
    box_regression_loss,
    location_loss,
)

RPN_WEIGHTS = (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11)


def smooth_l1(x, beta):
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - 0.5 * beta


def slope(function, values, i, step=1e-5):
    """Derivative by the i-th value, as a central difference."""
    low, high = list(values), list(values)
    low[i] -= step
    high[i] += step
    return (function(high) - function(low)) / (2 * step)


# ---------------------------------------------------------------------------------- location


def focal(logit, target, alpha=0.25, gamma=2.0):
    p = 1 / (1 + math.exp(-logit))
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def test_location_loss():
    logits = [-9.0, -4.6, -1.0, -0.25, 0.0, 0.5, 1.5, 7.0] * 2
    cells = [(x, t, w) for x, t in zip(logits, [1] * 8 + [0] * 8, strict=True) for w in (1, 0.1, 0)]
    x, t, w = torch.tensor(cells, dtype=torch.float64).unbind(dim=1)
    x = x.float().view(2, -1).requires_grad_()
    loss = location_loss(x, t.float().view(2, -1), w.float().view(2, -1))
    expected = sum(weight * focal(logit, target) for logit, target, weight in cells)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for gradient, (logit, target, weight) in zip(x.grad.flatten(), cells, strict=True):
        by_step = weight * slope(lambda v, t=target: focal(v[0], t), [logit], 0)
        assert gradient.item() == pytest.approx(by_step, rel=1e-4, abs=1e-6)


def test_location_loss_of_certain_cells_is_finite():
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    loss = location_loss(logits, targets, torch.ones(1, 4))
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 200 + 0.25 * 200)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.75, -0.25]]))


# -------------------------------------------------------------------------------------- shape


def bounded_iou(anchor, box, beta=0.2, eps=1e-3):
    """The four terms of x, y, width and height; the centres' distance is a constant."""
    terms = []
    for low, high in ((0, 2), (1, 3)):
        size = box[high] - box[low]
        distance = abs((box[low] + box[high]) / 2 - (anchor[low] + anchor[high]) / 2)
        terms.append(1 - max((size - 2 * distance) / (size + 2 * distance + eps), 0))
    for low, high in ((0, 2), (1, 3)):
        predicted, size = anchor[high] - anchor[low], box[high] - box[low]
        terms.append(1 - min(size / (predicted + eps), predicted / (size + eps)))
    return [smooth_l1(t, beta) for t in terms]


def corners(values):
    """(center x, center y, width, height) to a box."""
    x, y, w, h = values
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


coordinates = st.floats(-200, 200)
lengths = st.floats(0.5, 300)
boxes = st.tuples(coordinates, coordinates, lengths, lengths).map(corners)


@given(
    st.lists(st.tuples(boxes, boxes), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.05, 0.2, 1.0]),
)
@settings(max_examples=50)
def test_bounded_iou_loss(pairs, beta):
    anchors, targets = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    ours = bounded_iou_loss(anchors, targets, beta)
    expected = torch.tensor([bounded_iou(a, t, beta) for a, t in pairs], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_bounded_iou_loss_by_shape_outputs():
    generator = torch.Generator().manual_seed(3)
    grid = make_cell_grid(((3, 4),), (8,), torch.device("cpu"))
    half = 10 + 40 * torch.rand(12, 2, generator=generator, dtype=torch.float64)
    middle = grid.centers + 20 * torch.rand(12, 2, generator=generator, dtype=torch.float64)
    targets = torch.cat([middle - half, middle + half], dim=1)

    def loss(deltas):
        anchors = make_guided_anchors(grid.centers, grid.stride, deltas, 4, (2.0, 1.0))
        return bounded_iou_loss(anchors, targets)

    deltas = torch.randn(12, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, deltas)
    (gradient,) = torch.autograd.grad(loss(deltas).sum(), deltas)
    assert (gradient != 0).all()


def test_the_bounded_iou_loss_moves_no_center():
    anchors = torch.tensor([[0.0, 0, 8, 8]], dtype=torch.float64, requires_grad=True)
    box = torch.tensor([[3.0, 1, 19, 6]], dtype=torch.float64)
    bounded_iou_loss(anchors, box).sum().backward()
    torch.testing.assert_close(anchors.grad[:, :2], -anchors.grad[:, 2:])
    assert (anchors.grad != 0).all()


# -------------------------------------------------------------------------------------- boxes


def test_box_deltas_are_detectron2s():
    generator = torch.Generator().manual_seed(4)

    def random_boxes():
        corner = 100 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
        size = 1 + 100 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
        return torch.cat([corner, corner + size], dim=1)

    anchors, targets = random_boxes(), random_boxes()
    for weights in (RPN_WEIGHTS, (1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 3.0, 4.0)):
        transform = Box2BoxTransform(weights)
        theirs = transform.get_deltas(anchors, targets)
        ours = box_deltas(anchors.view(5, 10, 4), targets.view(5, 10, 4), weights)
        torch.testing.assert_close(ours.view(50, 4), theirs, rtol=1e-10, atol=1e-10)
        back = transform.apply_deltas(ours.view(50, 4), anchors)
        torch.testing.assert_close(back, targets.float(), rtol=1e-5, atol=1e-3)


ANCHORS = [[0.0, 0, 40, 20], [10, 30, 26, 90], [5, 5, 37, 37], [100, 50, 140, 90]]
TARGETS = [[4.0, -3, 38, 25], [12, 20, 40, 80], [0, 0, 30, 44], [300, 210, 330, 260]]
DELTAS = [[0.1, -0.2, 0.3, 0.05], [-0.6, 0.4, -0.1, 0.2], [0.3, 0.3, 0.4, -0.4], [0.2, 0, 0, 0.1]]
IOU_LOSSES = {
    "giou": torchvision.ops.generalized_box_iou_loss,
    "diou": torchvision.ops.distance_box_iou_loss,
    "ciou": torchvision.ops.complete_box_iou_loss,
}


@pytest.mark.parametrize("beta", [1.0, 0.04, 0.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 1.5, 1.5)])
@pytest.mark.parametrize("kind", BOX_LOSS_TYPES)
def test_box_regression_loss(kind, weights, beta):
    """Values and gradients by torch and torchvision; the last pair of boxes does not touch.

    Whatever boxes and outputs of other anchors are, loss and gradient are not NaN.
    """
    transform = Box2BoxTransform(weights)
    anchors, targets, deltas = (torch.tensor(x) for x in (ANCHORS, TARGETS, DELTAS))
    theirs = deltas.clone().requires_grad_()
    if kind == "smooth_l1":
        wanted = transform.get_deltas(anchors, targets)
        if beta > 0:
            expected = F.smooth_l1_loss(theirs, wanted, beta=beta, reduction="sum")
        else:
            expected = F.l1_loss(theirs, wanted, reduction="sum")
    else:
        boxes = transform.apply_deltas(theirs, anchors)
        expected = IOU_LOSSES[kind](boxes, targets, reduction="sum")
    expected.backward()

    positive = torch.tensor([[True, True], [True, True], [False, False]])
    other = torch.tensor([[math.nan, -math.inf, 0, 0], [0, 5, math.nan, math.inf]])
    ours = torch.cat([deltas, other]).view(3, 2, 4).requires_grad_()
    loss = box_regression_loss(
        torch.cat([anchors, other]).view(3, 2, 4),
        ours,
        torch.cat([targets, other]).view(3, 2, 4),
        positive,
        transform,
        kind,
        beta,
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    torch.testing.assert_close(ours.grad[:2].flatten(0, 1), theirs.grad, rtol=1e-4, atol=1e-5)
    assert not ours.grad[2].any()


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou"])  # in CIoU, alpha is a constant
def test_gradient_of_box_regression_loss_by_differences(kind):
    anchors, targets, deltas = (torch.tensor(x) for x in (ANCHORS, TARGETS, DELTAS))
    everyone = torch.ones(4, dtype=torch.bool)
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))

    def loss(deltas):
        return box_regression_loss(anchors, deltas, targets, everyone, transform, kind, 0.04)

    (gradient,) = torch.autograd.grad(loss(deltas.requires_grad_()), deltas)
    for i in range(16):
        step = torch.zeros(16).index_fill(0, torch.tensor(i), 2e-3).view(4, 4)
        by_step = (loss(deltas + step) - loss(deltas - step)).item() / 4e-3
        assert gradient.flatten()[i].item() == pytest.approx(by_step, rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("kind", BOX_LOSS_TYPES)
def test_no_positive_anchor_costs_nothing(kind):
    for count in (0, 3):
        deltas = torch.zeros(count, 4, requires_grad=True)
        boxes, none = torch.zeros(count, 4), torch.zeros(count, dtype=torch.bool)
        transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
        loss = box_regression_loss(boxes, deltas, boxes, none, transform, kind, 0.04)
        assert loss.item() == 0
        loss.backward()
        assert torch.equal(deltas.grad, torch.zeros(count, 4))
