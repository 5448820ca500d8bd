"""Targets of guided anchoring: where a cell should see an object, and which box it should cover.

All functions work on whole batches and on all boxes at once, wait for no GPU value, and take
ground truth as a padded tensor (see :class:`GroundTruth`). Naming as in ``anchors.py``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .anchors import CellGrid, approximate_anchor_offsets

# Boxes x anchors that are compared at a time: an intermediate stays within a CPU's cache.
PAIRS_PER_CHUNK = 1 << 17


class GroundTruth(NamedTuple):
    """Boxes of a batch, padded to M a image.

    Attributes:
        boxes: (N, M, 4) float32; padding is all zero.
        classes: (N, M) int64; padding is 0.
        valid: (N, M) bool, False for padding and for boxes without an area.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor

    def take(self, index: Tensor) -> Tensor:
        """Boxes by their number: (N, B) int64 to (N, B, 4); zeros where there are no boxes."""
        if self.boxes.shape[1] == 0:
            return self.boxes.new_zeros(*index.shape, 4)
        return self.boxes.gather(1, index[..., None].expand(-1, -1, 4))

    def take_classes(self, index: Tensor) -> Tensor:
        """Classes by the number of their box: (N, B) to (N, B); 0 where there are no boxes."""
        if self.boxes.shape[1] == 0:
            return torch.zeros_like(index)
        return self.classes.gather(1, index)


def pad_ground_truth(instances: Sequence[Instances]) -> GroundTruth:
    """The ground truth of N images as tensors of one size.

    Args:
        instances: with ``gt_boxes`` and, where classes matter, ``gt_classes``.
    """
    boxes = [x.gt_boxes.tensor.float() for x in instances]
    classes = [
        x.gt_classes if x.has("gt_classes") else torch.zeros_like(b[:, 0], dtype=torch.int64)
        for x, b in zip(instances, boxes, strict=True)
    ]
    padded = pad_sequence(boxes, batch_first=True)
    sizes = padded[..., 2:] - padded[..., :2]
    valid = (sizes > 0).all(dim=2) & padded.isfinite().all(dim=2)
    # NaN would spread from a single box to whole maps.
    padded = torch.where(valid[..., None], padded, 0.0)
    return GroundTruth(padded, pad_sequence(classes, batch_first=True), valid)


# ------------------------------------------------------------------------------- location targets


class LocationTargets(NamedTuple):
    """Attributes: targets, weights: (N, R) float32; see :func:`location_targets`."""

    targets: Tensor
    weights: Tensor


def location_targets(
    grid: CellGrid,
    ground_truth: GroundTruth,
    base_scale: float,
    center_ratio: float,
    ignore_ratio: float,
    outside_weight: float = 0.1,
) -> LocationTargets:
    """Targets of the location branch ("Guided Anchoring", section 3.5).

    A box belongs to one level by its size. There its centre region is positive and what of its
    ignored region lies around takes no part; neither does its ignored region on the neighbouring
    levels. Where boxes overlap, centre wins over ignored and ignored over outside.

    Args:
        grid: the cells.
        ground_truth: boxes in pixels.
        base_scale: the squares' side in strides.
        center_ratio, ignore_ratio: share of a box's width and height that the regions take.
        outside_weight: of cells in no region.

    Returns:
        targets 1 (centre) or 0; weights 1 (centre), 0 (ignored) or ``outside_weight``.
    """
    boxes, valid = ground_truth.boxes, ground_truth.valid
    levels = box_levels(boxes, len(grid.sizes), grid.strides[0], base_scale)
    targets, weights = [], []
    for i, ((height, width), stride) in enumerate(zip(grid.sizes, grid.strides, strict=True)):
        scaled = boxes / stride
        own = valid & (levels == i)
        near = valid & ((levels - i).abs() <= 1)
        center = _any_region(scaled, own, center_ratio, height, width)
        ignored = _any_region(scaled, near, ignore_ratio, height, width)
        weight = torch.where(ignored, 0.0, outside_weight)
        targets.append(center.float())
        weights.append(torch.where(center, 1.0, weight))
    return LocationTargets(torch.cat(targets, dim=1), torch.cat(weights, dim=1))


def box_levels(boxes: Tensor, num_levels: int, first_stride: int, base_scale: float) -> Tensor:
    """The level that each box belongs to: where its size is nearest to the squares'.

    Args:
        boxes: (..., 4) in pixels.

    Returns:
        (...) float, whole numbers from 0 to num_levels - 1.
    """
    scale = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
    level = (scale.log2() - math.log2(base_scale * first_stride) + 0.5).floor()
    return level.clamp(0, num_levels - 1)


def central_region(boxes: Tensor, ratio: float, height: int, width: int) -> Tensor:
    """Cells of the central part of each box, first to last, inclusive.

    Args:
        boxes: (..., 4) in cells.
        ratio: share of the box's width and height.
        height, width: of the level, in cells; regions are clamped to [0, size].

    Returns:
        (..., 4) float (x1, y1, x2, y2), whole numbers, rounded half to even.
    """
    r = (1 - ratio) / 2
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack(
        [
            ((1 - r) * x1 + r * x2).round().clamp(0, width),
            ((1 - r) * y1 + r * y2).round().clamp(0, height),
            (r * x1 + (1 - r) * x2).round().clamp(0, width),
            (r * y1 + (1 - r) * y2).round().clamp(0, height),
        ],
        dim=-1,
    )


def _any_region(boxes: Tensor, chosen: Tensor, ratio: float, height: int, width: int) -> Tensor:
    """(N, Hi * Wi) bool: cells in the central region of any chosen box.

    A region is the product of a mask of rows and a mask of columns, so that all boxes of an image
    are one small matrix product, which counts the regions that a cell lies in.
    """
    x1, y1, x2, y2 = central_region(boxes, ratio, height, width)[..., None].unbind(dim=-2)
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    columns = (x >= x1) & (x <= x2)
    rows = (y >= y1) & (y <= y2) & chosen[..., None]
    with torch.autocast(boxes.device.type, enabled=False):
        count = rows.float().transpose(1, 2) @ columns.float()
    return count.flatten(1) > 0


# ---------------------------------------------------------------------------------------- matching


class Matches(NamedTuple):
    """Attributes:
    index: (N, R) int64, the box that each cell is matched to; 0 where there is none.
    labels: (N, R) int64: 1 positive, 0 negative, -1 takes no part.
    """

    index: Tensor
    labels: Tensor


class MatchRule(NamedTuple):
    """When a cell is positive or negative.

    Attributes:
        thresholds, labels: as detectron2's Matcher takes them: ``labels[k]`` is for cells whose best
            IoU lies in [thresholds[k - 1], thresholds[k]).
        min_positive_iou: a box whose best IoU is at least this, and above 0, gets every cell that
            reaches it.
    """

    thresholds: tuple[float, ...]
    labels: tuple[int, ...]
    min_positive_iou: float


def match_anchors(
    anchors: Tensor, inside: Tensor, ground_truth: GroundTruth, rule: MatchRule
) -> Matches:
    """Match guided anchors with boxes by IoU.

    Args:
        anchors: (N, R, 4), in pixels; one for each cell.
        inside: (N, R) bool; the others get label -1 and stay out of every comparison.
        ground_truth: the boxes.
        rule: see :class:`MatchRule`.
    """

    def iou_of(images: slice, cells: slice) -> Tensor:
        return _pairwise_iou(ground_truth.boxes[images], anchors[images, cells])

    return _match(iou_of, inside, ground_truth, rule)


def _pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of (n, M, 4) with (n, r, 4), as (n, M, r)."""
    bx1, by1, bx2, by2 = boxes[..., None].unbind(dim=2)
    ax1, ay1, ax2, ay2 = anchors[:, None].unbind(dim=3)
    width = (torch.min(bx2, ax2) - torch.max(bx1, ax1)).clamp_(min=0)
    height = (torch.min(by2, ay2) - torch.max(by1, ay1)).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (bx2 - bx1) * (by2 - by1) + (ax2 - ax1) * (ay2 - ay1)
    return intersection / (areas - intersection).clamp_(min=1e-6)


def match_approximate_anchors(
    grid: CellGrid,
    inside: Tensor,
    ground_truth: GroundTruth,
    rule: MatchRule,
    base_scale: float,
    scales_per_octave: int,
    ratios: Sequence[float],
) -> Matches:
    """Match cells with boxes by the best IoU of their approximate anchors ("Guided Anchoring", 3.3).

    Args:
        grid: the cells.
        base_scale, scales_per_octave, ratios: see :func:`.anchors.approximate_anchor_offsets`.
        inside, ground_truth, rule: as in :func:`match_anchors`.
    """
    device = grid.centers.device
    offsets = [
        approximate_anchor_offsets(s, base_scale, scales_per_octave, ratios).to(
            device, non_blocking=True
        )
        for s in grid.strides
    ]
    # (A, R, 4), the same for every image.
    anchors = torch.cat(
        [
            (centers.repeat(1, 2)[None] + offset[:, None])
            for centers, offset in zip(
                grid.centers.split(grid.cells_per_level), offsets, strict=True
            )
        ],
        dim=1,
    )

    def iou_of(images: slice, cells: slice) -> Tensor:
        boxes = ground_truth.boxes[images]
        best = _pairwise_iou(boxes, anchors[:1, cells])
        for kind in anchors[1:, cells]:
            torch.max(best, _pairwise_iou(boxes, kind[None]), out=best)
        return best

    return _match(iou_of, inside, ground_truth, rule)


def _match(iou_of, inside: Tensor, ground_truth: GroundTruth, rule: MatchRule) -> Matches:
    """Match by the IoU that ``iou_of(images, cells)`` gives for a part of the pairs, (n, M, r)."""
    N, R = inside.shape
    M = ground_truth.boxes.shape[1]
    device = inside.device
    if M == 0:
        labels = torch.where(inside, rule.labels[0], -1)
        return Matches(torch.zeros_like(labels), labels)
    step = max(1, PAIRS_PER_CHUNK // (N * M))
    chunks = [slice(start, min(start + step, R)) for start in range(0, R, step)]
    everything = slice(None)

    tables, best_of_cell, index = [], [], []
    for cells in chunks:
        iou = iou_of(everything, cells)
        iou = torch.where(inside[:, None, cells], iou, -1.0)
        best, box = iou.max(dim=1)
        tables.append(iou)
        best_of_cell.append(best)
        index.append(box)
    best_of_box = torch.stack([t.amax(dim=2) for t in tables]).amax(dim=0)  # (N, M)
    iou_max = torch.cat(best_of_cell, dim=1)
    matched = torch.cat(index, dim=1)

    labels = torch.full((N, R), rule.labels[0], device=device)
    for threshold, label in zip(rule.thresholds, rule.labels[1:], strict=True):
        labels = torch.where(iou_max >= threshold, label, labels)

    # A box that no cell covers well still gets its best ones. Where two boxes claim the same cell,
    # the later one has it.
    claims = (best_of_box > 0) & (best_of_box >= rule.min_positive_iou) & ground_truth.valid
    order = torch.arange(1, M + 1, device=device)[:, None]
    claimed_by = torch.cat(
        [
            (((t == best_of_box[..., None]) & claims[..., None]) * order).amax(dim=1)
            for t in tables
        ],
        dim=1,
    )
    claimed = claimed_by > 0
    matched = torch.where(claimed, claimed_by - 1, matched)
    labels = torch.where(claimed, 1, labels)
    return Matches(matched, torch.where(inside, labels, -1))


# ---------------------------------------------------------------------------------------- sampling


class Sample(NamedTuple):
    """Cells drawn for a loss, the same number B for every image, not all of which count.

    Attributes:
        index: (N, B) int64 into R.
        positive, negative: (N, B) bool; a cell that is neither fills up and does not count.
    """

    index: Tensor
    positive: Tensor
    negative: Tensor

    def normalizer(self) -> Tensor:
        """Sum over images of max(positives, 1) + max(negatives, 1), a float scalar."""
        return sum(
            x.sum(dim=1).clamp(min=1).sum().float() for x in (self.positive, self.negative)
        )

    def take(self, values: Tensor) -> Tensor:
        """Values of the sampled cells: (N, R, ...) to (N, B, ...)."""
        index = self.index.reshape(self.index.shape + (1,) * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def sample_cells(labels: Tensor, batch_size: int, positive_fraction: float) -> Sample:
    """Draw cells at random: at most ``positive_fraction`` positive ones, negative ones for the rest.

    Args:
        labels: (N, R), 1 positive, 0 negative, others never drawn.
        batch_size: cells to draw in an image.
        positive_fraction: largest share of positives.
    """
    R = labels.shape[1]
    order = torch.rand(labels.shape, device=labels.device)
    most_positive = min(int(batch_size * positive_fraction), R)
    # Of the cells of a kind, those that come first in a random order.
    pos_rank, pos_index = torch.where(labels == 1, order, 2.0).topk(
        most_positive, dim=1, largest=False
    )
    neg_rank, neg_index = torch.where(labels == 0, order, 2.0).topk(
        min(batch_size, R), dim=1, largest=False
    )
    positive = pos_rank < 2
    room = batch_size - positive.sum(dim=1, keepdim=True)
    negative = (neg_rank < 2) & (torch.arange(neg_rank.shape[1], device=labels.device) < room)
    index = torch.cat([pos_index, neg_index], dim=1)
    none = torch.zeros_like
    positive, negative = (
        torch.cat([positive, none(negative)], dim=1),
        torch.cat([none(positive), negative], dim=1),
    )
    # Those that count come first; there are never more than batch_size of them.
    front = (positive | negative).byte().argsort(dim=1, descending=True, stable=True)
    front = front[:, :batch_size]
    return Sample(index.gather(1, front), positive.gather(1, front), negative.gather(1, front))
