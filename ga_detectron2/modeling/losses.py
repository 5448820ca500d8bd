"""Losses of guided anchoring, as pure functions of tensors."""

from collections.abc import Sequence

import torch
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils import comm
from fvcore.nn import giou_loss, sigmoid_focal_loss, smooth_l1_loss
from torch import Tensor, distributed
from torch.nn import functional as F

# The location loss is divided by (number of cells / 200), since most cells are background.
LOCATION_NORMALIZER = 200

BOX_LOSS_TYPES = ("smooth_l1", "giou", "diou", "ciou")


def location_loss(
    loc_logits: Tensor, targets: Tensor, weights: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Weighted sigmoid focal loss of the location branch ("Guided Anchoring", 3.5), summed.

    Args:
        loc_logits, targets, weights: (N, R) float; targets are 0 or 1.

    Returns:
        Scalar; the caller divides it by the number of cells / ``LOCATION_NORMALIZER``.
    """
    # Not fvcore's jit-compiled version: its first backward pass in a process rounds differently
    # from later ones, which would break exact resume.
    loss = sigmoid_focal_loss(
        loc_logits.float(), targets, alpha=alpha, gamma=gamma, reduction="none"
    )
    return (loss * weights).sum()


def bounded_iou_loss(
    anchors: Tensor, target_boxes: Tensor, beta: float = 0.2, eps: float = 1e-3
) -> Tensor:
    """Bounded IoU loss (Tychsen-Smith and Petersson, 2018) with a smooth L1 around it.

    Args:
        anchors: (..., 4) predicted boxes.
        target_boxes: (..., 4) boxes whose shape they should have.
        beta: transition point of smooth L1 from quadratic to linear.
        eps: keeps the quotients finite, in pixels.

    Returns:
        (..., 4): the terms of x, y, width and height.
    """
    anchor_sizes = anchors[..., 2:] - anchors[..., :2]
    target_sizes = target_boxes[..., 2:] - target_boxes[..., :2]
    # The distance of the centres is fixed by the cell and gets no gradient.
    distance = (
        (
            (target_boxes[..., :2] + target_boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:])
            * 0.5
        )
        .detach()
        .abs()
    )
    center_loss = 1 - ((target_sizes - 2 * distance) / (target_sizes + 2 * distance + eps)).clamp(
        min=0
    )
    size_loss = 1 - torch.min(
        target_sizes / (anchor_sizes + eps), anchor_sizes / (target_sizes + eps)
    )
    loss = torch.cat([center_loss, size_loss], dim=-1)
    return smooth_l1_loss(loss, torch.zeros_like(loss), beta=beta, reduction="none")


def box_deltas(anchors: Tensor, boxes: Tensor, weights: Sequence[float]) -> Tensor:
    """Box2BoxTransform.get_deltas without its assertion, which forces a GPU synchronisation.

    Args:
        anchors, boxes: (..., 4), anchors of positive width and height.
        weights: factors of dx, dy, dw, dh.

    Returns:
        (..., 4) deltas.
    """
    anchor_w, anchor_h = (anchors[..., 2:] - anchors[..., :2]).unbind(dim=-1)
    box_w, box_h = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=-1)
    # Twice the distance between the centres.
    dx, dy = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]).unbind(dim=-1)
    wx, wy, ww, wh = weights
    return torch.stack(
        [
            wx * 0.5 * dx / anchor_w,
            wy * 0.5 * dy / anchor_h,
            ww * (box_w / anchor_w).log(),
            wh * (box_h / anchor_h).log(),
        ],
        dim=-1,
    )


def box_regression_loss(
    anchors: Tensor,
    pred_deltas: Tensor,
    target_boxes: Tensor,
    positive: Tensor,
    transform: Box2BoxTransform,
    loss_type: str,
    beta: float,
) -> Tensor:
    """Box loss of the positive anchors, summed; anchors differ from image to image.

    Args:
        anchors, pred_deltas, target_boxes: (..., 4).
        positive: (...) bool, the ones that count.
        transform: turns deltas into boxes.
        loss_type: one of ``BOX_LOSS_TYPES``, as in MODEL.RPN.BBOX_REG_LOSS_TYPE.
        beta: transition point of smooth L1.
    """
    # Gradients of masked outputs must be finite, too: 0 * inf is not 0. IoU losses of fvcore and
    # detectron2 refuse boxes that are not finite.
    counts = positive[..., None]
    anchors = torch.where(counts, anchors, F.pad(anchors.new_ones(2), (2, 0)))
    pred_deltas = torch.where(counts, pred_deltas.float(), 0.0)
    if loss_type == "smooth_l1":
        targets = box_deltas(anchors, target_boxes, transform.weights)
        loss = smooth_l1_loss(pred_deltas, targets, beta=beta, reduction="none").sum(dim=-1)
    else:
        function = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}[loss_type]
        pred_boxes = transform.apply_deltas(pred_deltas.reshape(-1, 4), anchors.reshape(-1, 4))
        loss = function(_with_area(pred_boxes), target_boxes.reshape(-1, 4), reduction="none")
        loss = loss.reshape(positive.shape)
    return torch.where(positive, loss, 0.0).sum()


def _with_area(boxes: Tensor) -> Tensor:
    """Boxes (K, 4), widened where rounding has left no width or height: CIoU divides by them."""
    corner = boxes[:, :2]
    least = corner.detach().abs() * 1e-6 + 1e-3
    return torch.cat([corner, torch.max(boxes[:, 2:], corner + least)], dim=1)


def mean_over_workers(value: Tensor) -> Tensor:
    """Mean over all workers, so that losses do not depend on how these share a batch."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return value
    value = value.clone()
    distributed.all_reduce(value)
    return value / world_size
