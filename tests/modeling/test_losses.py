"""Losses against closed forms in plain Python, finite differences, torchvision and detectron2."""

import math

import pytest
import torch
import torchvision
from detectron2.modeling.box_regression import Box2BoxTransform
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 1.0)])
def test_location_loss_is_torchvisions_focal_loss(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(3, 40, generator=generator)
    targets = (torch.rand(3, 40, generator=generator) < 0.3).float()
    ours = location_loss(logits, targets, torch.ones(3, 40), alpha, gamma)
    theirs = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha, gamma, "sum")
    torch.testing.assert_close(ours, theirs)


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


@given(st.lists(st.tuples(boxes, boxes), min_size=1, max_size=5), st.sampled_from([0.05, 0.2, 1.0]))
@settings(max_examples=50)
def test_bounded_iou_loss(pairs, beta):
    anchors, targets = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    ours = bounded_iou_loss(anchors, targets, beta)
    expected = torch.tensor([bounded_iou(a, t, beta) for a, t in pairs], dtype=torch.float64)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_bounded_iou_loss_by_hand():
    # The same shape, half a width aside: (8 - 8) / (8 + 8) = 0, a loss of 1 in x alone.
    anchor, box = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[4.0, 0, 12, 8]])
    expected = torch.tensor([[0.9, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(bounded_iou_loss(anchor, box), expected, rtol=0, atol=1e-3)
    # Twice as wide, half as high: min(1/2, 2) and min(2, 1/2), 1 - 1/2 - 0.1 each.
    anchor, box = torch.tensor([[-8.0, -2, 8, 2]]), torch.tensor([[-4.0, -4, 4, 4]])
    expected = torch.tensor([[0.0, 0.0, 0.4, 0.4]])
    torch.testing.assert_close(bounded_iou_loss(anchor, box), expected, rtol=0, atol=1e-3)


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


def decode(anchor, deltas, weights):
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    dx, dy, dw, dh = (d / k for d, k in zip(deltas, weights, strict=True))
    return corners((x + dx * w, y + dy * h, w * math.exp(dw), h * math.exp(dh)))


def iou_loss(kind, box, target, fixed_alpha=None):
    """The losses of "Generalized IoU" and "Distance-IoU Loss", for two boxes that have an area."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, target
    overlap = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
    iou = overlap / union
    width, height = max(x2, u2) - min(x1, u1), max(y2, v2) - min(y1, v1)
    if kind == "giou":
        return 1 - iou + (width * height - union) / (width * height)
    distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    loss = 1 - iou + distance / (width**2 + height**2)
    if kind == "diou":
        return loss
    v = ciou_ratio_term(box, target)
    alpha = v / (1 - iou + v) if fixed_alpha is None else fixed_alpha
    return loss + alpha * v


def ciou_ratio_term(box, target):
    angles = [math.atan((b[2] - b[0]) / (b[3] - b[1])) for b in (box, target)]
    return 4 / math.pi**2 * (angles[0] - angles[1]) ** 2


def ciou_alpha(box, target):
    v = ciou_ratio_term(box, target)
    without = iou_loss("ciou", box, target, fixed_alpha=0.0)
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, target
    width, height = max(x2, u2) - min(x1, u1), max(y2, v2) - min(y1, v1)
    distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    return v / (without - distance / (width**2 + height**2) + v)


ANCHORS = [[0.0, 0, 40, 20], [10, 30, 26, 90], [5, 5, 37, 37], [100, 50, 140, 90]]
TARGETS = [[4.0, -3, 38, 25], [12, 20, 40, 80], [0, 0, 30, 44], [300, 210, 330, 260]]
DELTAS = [[0.1, -0.2, 0.3, 0.05], [-0.6, 0.4, -0.1, 0.2], [0.3, 0.3, 0.4, -0.4], [0.2, 0, 0, 0.1]]


@pytest.mark.parametrize("beta", [1.0, 0.04])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (2.0, 2.0, 1.5, 1.5)])
@pytest.mark.parametrize("kind", BOX_LOSS_TYPES)
def test_box_regression_loss(kind, weights, beta):
    """Values and gradients; the last pair of boxes does not even touch."""

    def twin(i, deltas, fixed_alpha=None):
        if kind != "smooth_l1":
            box = decode(ANCHORS[i], deltas, weights)
            return iou_loss(kind, box, TARGETS[i], fixed_alpha)
        (ax, ay, aw, ah), (tx, ty, tw, th) = (
            ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1])
            for b in (ANCHORS[i], TARGETS[i])
        )
        wanted = ((tx - ax) / aw, (ty - ay) / ah, math.log(tw / aw), math.log(th / ah))
        return sum(
            smooth_l1(d - k * t, beta) for d, k, t in zip(deltas, weights, wanted, strict=True)
        )

    positive = torch.tensor([True] * 4 + [False])
    nothing = [[0.0, 0, 0, 0]]
    deltas = torch.tensor([*DELTAS, [5.0, 5, 5, 5]], requires_grad=True)
    loss = box_regression_loss(
        torch.tensor([*ANCHORS, [3, 3, 9, 9]]),
        deltas,
        torch.tensor(TARGETS + nothing),
        positive,
        Box2BoxTransform(weights),
        kind,
        beta,
    )
    assert loss.item() == pytest.approx(sum(twin(i, DELTAS[i]) for i in range(4)), rel=1e-4)
    loss.backward()
    assert not deltas.grad[4].any()
    for i in range(4):
        # The weight of CIoU's third term is meant to be a constant of the gradient.
        alpha = None
        if kind == "ciou":
            alpha = ciou_alpha(decode(ANCHORS[i], DELTAS[i], weights), TARGETS[i])
        for k in range(4):
            by_step = slope(lambda d, i=i, a=alpha: twin(i, d, a), DELTAS[i], k)
            assert deltas.grad[i, k].item() == pytest.approx(by_step, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("giou", torchvision.ops.generalized_box_iou_loss),
        ("diou", torchvision.ops.distance_box_iou_loss),
        ("ciou", torchvision.ops.complete_box_iou_loss),
    ],
)
def test_iou_losses_are_torchvisions(kind, theirs):
    anchors, deltas, targets = (torch.tensor(x) for x in (ANCHORS, DELTAS, TARGETS))
    deltas.requires_grad_()
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    everyone = torch.ones(2, 2, dtype=torch.bool)
    shape = (2, 2, 4)
    loss = box_regression_loss(
        anchors.view(shape), deltas.view(shape), targets.view(shape), everyone, transform, kind, 1.0
    )
    expected = theirs(transform.apply_deltas(deltas, anchors), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for ours, other in zip(
        torch.autograd.grad(loss, deltas), torch.autograd.grad(expected, deltas), strict=True
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BOX_LOSS_TYPES)
@pytest.mark.parametrize("count", [0, 3])
def test_no_positive_anchor_costs_nothing(kind, count):
    """Whatever stands in place of the boxes, loss and gradient are zero, not NaN."""
    anchors = torch.tensor([[0.0, 0, 8, 8]]).expand(count, 4)
    boxes = torch.tensor([[math.nan, -math.inf, 0, 0]]).expand(count, 4)
    deltas = torch.zeros(count, 4, requires_grad=True)
    none = torch.zeros(count, dtype=torch.bool)
    loss = box_regression_loss(
        anchors, deltas, boxes, none, Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), kind, 0.04
    )
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(deltas.grad, torch.zeros(count, 4))


def test_smooth_l1_without_a_quadratic_part():
    """beta 0 is plain L1, as in detectron2."""
    anchors, boxes = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[2.0, 0, 10, 8]])
    loss = box_regression_loss(
        anchors,
        torch.zeros(1, 4),
        boxes,
        torch.ones(1, dtype=torch.bool),
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "smooth_l1",
        0.0,
    )
    assert loss.item() == pytest.approx(0.25)
    assert bounded_iou_loss(anchors, boxes, beta=0.0)[0, 1:].tolist() == pytest.approx(
        [0, 1e-3 / 8, 1e-3 / 8], abs=2e-4
    )
