"""Ground truth as tensors, targets of the location branch, and sampling of cells for a loss.

All functions process a whole batch at once without GPU synchronisation, and take ground truth as
padded tensors (see :class:`GroundTruth`). Naming as in ``anchors.py``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .anchors import CellGrid

# Larger than any image, and small enough for areas and squared distances in float32.
MOST_PIXELS = 1e7


class GroundTruth(NamedTuple):
    """Boxes of a batch, padded to M per image.

    Attributes:
        boxes: (N, M, 4) float32; padding is all zero.
        classes: (N, M) int64; padding is 0.
        valid: (N, M) bool, False for padding, for boxes without an area, and for those with a
            coordinate that is not a number or beyond ``MOST_PIXELS``.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor

    def take(self, index: Tensor) -> Tensor:
        """Look up boxes by index: (N, B) int64 to (N, B, 4); zeros where there are no boxes."""
        if self.boxes.shape[1] == 0:
            return self.boxes.new_zeros(*index.shape, 4)
        return self.boxes.gather(1, index[..., None].expand(-1, -1, 4))

    def take_classes(self, index: Tensor) -> Tensor:
        """Look up classes by index of a box: (N, B) to (N, B); 0 where there are no boxes."""
        if self.boxes.shape[1] == 0:
            return torch.zeros_like(index)
        return self.classes.gather(1, index)


def pad_ground_truth(instances: Sequence[Instances]) -> GroundTruth:
    """Ground truth of N images as padded tensors.

    Args:
        instances: ground truth with ``gt_boxes`` and, where classes matter, ``gt_classes``.

    Raises:
        ValueError: the boxes are rotated.
    """
    boxes = [x.gt_boxes.tensor.float() for x in instances]
    if any(x.shape[1] != 4 for x in boxes):
        raise ValueError(
            "guided anchoring needs axis-aligned gt_boxes of type Boxes; rotated boxes are not "
            "supported"
        )
    classes = [
        x.gt_classes if x.has("gt_classes") else torch.zeros_like(b[:, 0], dtype=torch.int64)
        for x, b in zip(instances, boxes, strict=True)
    ]
    padded = pad_sequence(boxes, batch_first=True)
    sizes = padded[..., 2:] - padded[..., :2]
    valid = (sizes > 0).all(dim=2) & (padded.abs() <= MOST_PIXELS).all(dim=2)
    # A single NaN would spread to whole maps.
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

    Each box belongs to one level by its size. There, cells of its centre region are positive and
    the other cells of its ignored region are ignored, as are those of its ignored region on the
    neighbouring levels. Where boxes overlap, centre takes precedence over ignored and ignored over
    outside.

    Args:
        grid: the cells.
        ground_truth: boxes in pixels.
        base_scale: the squares' side in strides.
        center_ratio, ignore_ratio: shares of a box's width and height that its regions take.
        outside_weight: weight of cells outside every region.

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
    """Level of each box: the one whose squares are closest to it in size.

    Args:
        boxes: (..., 4) in pixels.

    Returns:
        (...) int64, from 0 to num_levels - 1.
    """
    scale = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
    level = (scale.log2() - math.log2(base_scale * first_stride) + 0.5).floor()
    return level.clamp(0, num_levels - 1).long()


def central_region(boxes: Tensor, ratio: float, height: int, width: int) -> Tensor:
    """First and last cells (inclusive) of the central part of each box.

    Args:
        boxes: (..., 4) in cells.
        ratio: share of the box's width and height.
        height, width: size of the level in cells; regions are clamped to [0, size].

    Returns:
        (..., 4) float (x1, y1, x2, y2), rounded to integers, half to even.
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

    A region is the product of a mask of rows and a mask of columns, so one small matrix product
    per image counts the regions that contain each cell.
    """
    x1, y1, x2, y2 = central_region(boxes, ratio, height, width)[..., None].unbind(dim=-2)
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)
    columns = (x >= x1) & (x <= x2)
    rows = (y >= y1) & (y <= y2) & chosen[..., None]
    with torch.autocast(boxes.device.type, enabled=False):
        count = rows.float().transpose(1, 2) @ columns.float()
    return count.flatten(1) > 0


# ---------------------------------------------------------------------------------------- sampling


class Sample(NamedTuple):
    """Cells sampled for a loss, B per image.

    Attributes:
        cells: (N, B) int64 into R.
        positive, negative: (N, B) bool; cells that are neither are padding.
    """

    cells: Tensor
    positive: Tensor
    negative: Tensor

    def normalizer(self) -> Tensor:
        """Sum over images of max(positives, 1) + max(negatives, 1), a float scalar."""
        counts = torch.stack([self.positive.sum(dim=1), self.negative.sum(dim=1)])
        return counts.clamp(min=1).sum().float()

    def take(self, values: Tensor) -> Tensor:
        """Values of the sampled cells: (N, R, ...) to (N, B, ...)."""
        index = self.cells.reshape(self.cells.shape + (1,) * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def sample_cells(labels: Tensor, batch_size: int, positive_fraction: float) -> Sample:
    """Sample positive cells at random, and negative ones for the rest of the batch.

    Args:
        labels: (N, R), 1 positive, 0 negative; others are never sampled.
        batch_size: number of cells per image.
        positive_fraction: largest share of positives.
    """
    R = labels.shape[1]
    order = torch.rand(labels.shape, device=labels.device)
    most_positive = min(int(batch_size * positive_fraction), R)
    # The first cells of each kind in a random order.
    pos_rank, pos_index = torch.where(labels == 1, order, 2.0).topk(
        most_positive, dim=1, largest=False
    )
    neg_rank, neg_index = torch.where(labels == 0, order, 2.0).topk(
        min(batch_size, R), dim=1, largest=False
    )
    positive, negative = pos_rank < 2, neg_rank < 2
    index = torch.cat([pos_index, neg_index], dim=1)
    none = torch.zeros_like
    positive, negative = (
        torch.cat([positive, none(negative)], dim=1),
        torch.cat([none(positive), negative], dim=1),
    )
    # Positives first, then as many negatives as there is room for, then padding.
    front = (positive | negative).byte().argsort(dim=1, descending=True, stable=True)
    front = front[:, :batch_size]
    return Sample(index.gather(1, front), positive.gather(1, front), negative.gather(1, front))
