"""Assignment of boxes to cells by IoU. Naming as in ``anchors.py``.

Boxes are compared with cells in chunks of boxes, so that memory stays bounded and, on a CPU,
intermediate tensors fit the cache. The results of the chunks are merged one by one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from .anchors import CellGrid, approximate_anchor_offsets, nearest_cells
from .targets import GroundTruth

# Number of box-anchor pairs compared at a time (at least one box per image with all its anchors).
# On a GPU, an operation on this many moves about 50 MB, which should take longer than its launch
# (not measured).
PAIRS_PER_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 22}
# Number of neighbouring cells that are compared with a box, or skipped, together.
CELLS_PER_RUN = 16


@dataclass(frozen=True)
class MatchRule:
    """Labels of cells by their IoU with boxes.

    Attributes:
        thresholds, labels: as in detectron2's Matcher: ``labels[k]`` is for cells whose best IoU
            lies in [thresholds[k - 1], thresholds[k]).
        min_positive_iou: a box whose best IoU is at least this, and above 0, claims every cell
            that reaches it.
    """

    thresholds: tuple[float, ...]
    labels: tuple[int, ...]
    min_positive_iou: float

    def __post_init__(self) -> None:
        # A lazy config has lists.
        thresholds, labels = tuple(self.thresholds), tuple(self.labels)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "labels", labels)
        if not all(0 < t <= 1 for t in thresholds) or list(thresholds) != sorted(thresholds):
            raise ValueError(
                f"IOU_THRESHOLDS {list(thresholds)} must be in ascending order, each above 0 and "
                "at most 1, such as [0.3, 0.7]"
            )
        if len(labels) != len(thresholds) + 1:
            raise ValueError(
                f"IOU_LABELS {list(labels)} must have {len(thresholds) + 1} labels, one more than "
                f"IOU_THRESHOLDS {list(thresholds)}"
            )
        first_positive = labels.index(1) if 1 in labels else 0
        if (
            first_positive == 0
            or any(label not in (-1, 0) for label in labels[:first_positive])
            or any(label != 1 for label in labels[first_positive:])
        ):
            raise ValueError(
                f"IOU_LABELS {list(labels)} must be 0 (negative) or -1 (ignored) at first and 1 "
                "(positive) from some IoU on, such as [0, -1, 1]"
            )
        if not 0 <= self.min_positive_iou <= 1:
            raise ValueError(f"MIN_POSITIVE_IOU {self.min_positive_iou} must be between 0 and 1")

    @classmethod
    def from_config(cls, cfg: CfgNode, section: str, min_positive_iou: float) -> "MatchRule":
        """Create from ``IOU_THRESHOLDS`` and ``IOU_LABELS`` of a section of ``cfg.MODEL``."""
        node = cfg.MODEL[section]
        try:
            return cls(node.IOU_THRESHOLDS, node.IOU_LABELS, min_positive_iou)
        except ValueError as error:
            raise ValueError(f"MODEL.{section}.{error}") from error


class Matches(NamedTuple):
    """Box and label of each cell.

    Attributes:
        boxes: (N, R) int64, index of the cell's box; arbitrary where there is none.
        labels: (N, R) int64: 1 positive, 0 negative, -1 ignored.
    """

    boxes: Tensor
    labels: Tensor


def match_anchors(
    anchors: Tensor, inside: Tensor, ground_truth: GroundTruth, rule: MatchRule
) -> Matches:
    """Match guided anchors with boxes by IoU.

    Args:
        anchors: (N, R, 4), in pixels; one for each cell.
        inside: (N, R) bool; other cells get label -1 and are not compared.
        ground_truth: the boxes.
        rule: see :class:`MatchRule`.
    """
    # Coordinates first, for contiguous access below. Anchors of cells outside have no area, thus
    # an IoU of 0.
    coordinates = torch.where(inside[..., None], anchors, 0.0).permute(2, 0, 1).contiguous()
    # Selecting near anchors would force a GPU synchronisation to learn the count. On a CPU,
    # comparing all anchors would add 5 % to a training step with 60 boxes and 40 % with 500.
    compare = _compare_all if anchors.is_cuda else _compare_near
    return compare(coordinates, inside, ground_truth, rule).matches(inside, rule)


def _compare_all(
    coordinates: Tensor, inside: Tensor, ground_truth: GroundTruth, rule: MatchRule
) -> "_Found":
    """Compare every box with every anchor, given as ``coordinates`` (4, N, R)."""
    found = _Found.nothing(inside)
    x1, y1, x2, y2 = coordinates[:, :, None]  # (N, 1, R) each
    areas = (x2 - x1) * (y2 - y1)
    for start, boxes, valid in _chunks(ground_truth, inside.numel()):
        bx1, by1, bx2, by2 = boxes[..., None].unbind(dim=2)
        width = torch.min(bx2, x2).sub_(torch.max(bx1, x1)).clamp_(min=0)
        height = torch.min(by2, y2).sub_(torch.max(by1, y1)).clamp_(min=0)
        iou = _iou(width.mul_(height), areas + (bx2 - bx1) * (by2 - by1))  # (N, m, R)
        best, box = iou.max(dim=1)
        claims = _claims(iou, iou.amax(dim=2), valid, rule)
        number = torch.arange(1, iou.shape[1] + 1, device=iou.device, dtype=torch.int32)
        claimed_by = torch.where(claims, number[:, None], 0).amax(dim=1)
        found = found.merge(start, best, box, claimed_by)
    return found


def _compare_near(
    coordinates: Tensor, inside: Tensor, ground_truth: GroundTruth, rule: MatchRule
) -> "_Found":
    """Like :func:`_compare_all`, but compares each box only with anchors near it.

    Anchors are grouped in runs of neighbouring cells. The bounding boxes of most runs do not touch
    a given ground-truth box, so these runs are skipped.
    """
    R = inside.shape[1]
    length = CELLS_PER_RUN
    padding = -R % length
    runs = F.pad(coordinates, (0, padding)).unflatten(2, (-1, length))  # (4, N, runs, length)
    exists = F.pad(inside, (0, padding)).unflatten(1, (-1, length))
    # Bounds of each run, (N, 1, runs).
    left, top = torch.where(exists, runs[:2], torch.inf).amin(dim=3)[:, :, None]
    right, bottom = torch.where(exists, runs[2:], -torch.inf).amax(dim=3)[:, :, None]
    by_run = runs.permute(1, 2, 0, 3).flatten(0, 1).contiguous()  # (N * runs, 4, length)
    found = _Found.nothing(inside)
    near: list[tuple[Tensor, ...]] = []
    num_near = 0
    # Usually a few percent of the runs touch a box, so chunks may be larger.
    for start, boxes, valid in _chunks(ground_truth, exists.numel() // 4):
        bx1, by1, bx2, by2 = boxes[..., None].unbind(dim=2)
        touch = (left < bx2) & (right > bx1) & (top < by2) & (bottom > by1) & valid[..., None]
        cells, box, iou, claims = _near_pairs(by_run, touch, boxes, valid, rule, R)
        near.append((cells, box + start, iou, claims))
        # Merging is O(cells), so it is deferred until the buffer is full. Usually few pairs reach
        # a threshold, but among anchors as large as the boxes tens of thousands do.
        num_near += cells.numel()
        if num_near > inside.numel():
            found = found.merge(0, *_merge_near(inside, near))
            near, num_near = [], 0
    return found.merge(0, *_merge_near(inside, near)) if near else found


def _near_pairs(
    by_run: Tensor, touch: Tensor, boxes: Tensor, valid: Tensor, rule: MatchRule, R: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Box-anchor pairs that can affect the result, from the runs that touch each box.

    Args:
        by_run: (N * runs, 4, length), the anchors' coordinates.
        touch: (N, m, runs) bool, the runs that a box is compared with.
        boxes, valid: (N, m, 4) and (N, m).
        rule: see :class:`MatchRule`.
        R: cells of an image; the last run may have more.

    Returns:
        cells, boxes, iou and claims as :func:`_per_cell` takes them.
    """
    image, box, run = touch.nonzero().unbind(dim=1)
    iou = _iou_of_runs(by_run.index_select(0, image * touch.shape[2] + run), boxes[image, box])

    # Only cells that reach a threshold or are among a box's best matter.
    number = image * boxes.shape[1] + box
    best = iou.new_zeros(valid.numel()).scatter_reduce(0, number, iou.amax(dim=1), "amax")
    least = _least_claim(best.view_as(valid), valid, rule).flatten()[number]
    claims = iou == least[:, None]
    pair, place = (claims | (iou >= rule.thresholds[0])).nonzero().unbind(dim=1)
    # Anchors that pad a run have an IoU of 0, below every threshold.
    cells = image[pair] * R + run[pair] * CELLS_PER_RUN + place
    return cells, box[pair], iou[pair, place], claims[pair, place]


def _iou_of_runs(runs: Tensor, boxes: Tensor) -> Tensor:
    """IoU (k, length) of each anchor of a run, (k, 4, length), with the run's box, (k, 4)."""
    x1, y1, x2, y2 = runs.unbind(dim=1)  # (k, length) each
    bx1, by1, bx2, by2 = boxes[..., None].unbind(dim=1)
    areas = (x2 - x1).mul_(y2 - y1).add_((bx2 - bx1) * (by2 - by1))
    width = torch.min(bx2, x2).sub_(torch.max(bx1, x1)).clamp_(min=0)
    height = torch.min(by2, y2).sub_(torch.max(by1, y1)).clamp_(min=0)
    return _iou(width.mul_(height), areas)


def _merge_near(inside: Tensor, near: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Values for each cell, from the pairs that :func:`_compare_near` has collected."""
    return _per_cell(inside.shape, *map(torch.cat, zip(*near, strict=True)))


def match_approximate_anchors(
    grid: CellGrid,
    inside: Tensor,
    ground_truth: GroundTruth,
    rule: MatchRule,
    base_scale: float,
    scales_per_octave: int,
    ratios: Sequence[float],
) -> Matches:
    """Match cells with boxes by their approximate anchors' best IoU ("Guided Anchoring", 3.3).

    An IoU that matters requires an anchor of about the box's size close to it, so each box is
    compared only with a window of cells around its centre, on the levels of its size.

    Args:
        grid: the cells.
        base_scale, scales_per_octave, ratios: see :func:`.anchors.approximate_anchor_offsets`.
        inside, ground_truth, rule: as in :func:`match_anchors`.
    """
    offsets = approximate_anchor_offsets(
        grid.strides, base_scale, scales_per_octave, tuple(ratios), inside.device
    )
    reach = _Reach.of(grid, rule, base_scale, scales_per_octave, ratios)
    R = inside.shape[1]
    found = _Found.nothing(inside)
    for start, boxes, valid in _chunks(ground_truth, len(inside) * reach.pairs_per_box):
        cells, anchor_xs, anchor_ys = reach.windows(grid, boxes, offsets)
        iou = _best_iou_in_windows(boxes, anchor_xs, anchor_ys)
        # (N, m, levels, rows, columns) from here to (N, m, pairs) and (N, m * pairs).
        cells, iou = cells.flatten(2), iou.flatten(2)
        exists = cells >= 0
        cells = cells.clamp(min=0)
        exists &= inside[:, None].expand(-1, cells.shape[1], -1).gather(2, cells)
        iou = torch.where(exists, iou, 0.0)
        claims = _claims(iou, iou.amax(dim=2), valid, rule)
        number = torch.arange(boxes.shape[1], device=cells.device)[:, None].expand_as(cells)
        image = torch.arange(len(cells), device=cells.device)[:, None, None]
        pairs = (cells + image * R, number, iou, claims)
        best, box, claimed_by = _per_cell(inside.shape, *(x.flatten() for x in pairs))
        found = found.merge(start, best, box, claimed_by)
    return found.matches(inside, rule)


class _Found(NamedTuple):
    """Values for each cell from the boxes compared so far, (N, R) each.

    Attributes:
        iou: the best IoU.
        box: the first box that has it.
        claimed_by: number + 1 of the last box that claims the cell; 0 for none.
    """

    iou: Tensor
    box: Tensor
    claimed_by: Tensor

    @classmethod
    def nothing(cls, inside: Tensor) -> "_Found":
        none = torch.zeros_like(inside, dtype=torch.int64)
        return cls(none.float(), none, none)

    def merge(self, start: int, iou: Tensor, box: Tensor, claimed_by: Tensor) -> "_Found":
        """Merge the values from later boxes, indexed from ``start``."""
        better = iou > self.iou
        return _Found(
            torch.where(better, iou, self.iou),
            torch.where(better, box + start, self.box),
            torch.where(claimed_by > 0, claimed_by + start, self.claimed_by),
        )

    def matches(self, inside: Tensor, rule: MatchRule) -> Matches:
        labels = torch.full_like(self.box, rule.labels[0])
        for threshold, label in zip(rule.thresholds, rule.labels[1:], strict=True):
            labels = torch.where(self.iou >= threshold, label, labels)
        # A box that no cell covers well still gets its best cells.
        claimed = self.claimed_by > 0
        boxes = torch.where(claimed, self.claimed_by - 1, self.box)
        labels = torch.where(claimed, 1, labels)
        return Matches(boxes, torch.where(inside, labels, -1))


class _Reach(NamedTuple):
    """Extent of the window of cells around a box whose IoU can matter.

    Attributes:
        rows, columns: cells above and below the box's centre, or left and right of it.
        num_levels: consecutive levels.
        lowest_side: smallest square side considered, relative to sqrt(box area); 0: all levels.
        first_square: side of the squares on the first level of all, in pixels.
    """

    rows: int
    columns: int
    num_levels: int
    lowest_side: float
    first_square: float

    @classmethod
    def of(
        cls,
        grid: CellGrid,
        rule: MatchRule,
        base_scale: float,
        scales_per_octave: int,
        ratios: Sequence[float],
    ) -> "_Reach":
        most_rows = max(height for height, _ in grid.sizes)
        most_columns = max(width for _, width in grid.sizes)
        num_levels = len(grid.sizes)
        first_square = base_scale * grid.strides[0]
        least_iou = min(rule.thresholds[0], rule.min_positive_iou)
        if least_iou <= 0:
            return cls(most_rows, most_columns, num_levels, 0.0, first_square)
        # The area of the smaller of two boxes is at least IoU times that of the larger, which
        # bounds the sides of the squares that matter, here divided by the box's side.
        largest_scale = 2 ** ((scales_per_octave - 1) / scales_per_octave)
        lowest_side = least_iou**0.5 / largest_scale
        highest_side = least_iou**-0.5
        levels = math.floor(math.log2(highest_side / lowest_side) + 0.01) + 1
        # They share at least IoU times the larger width, which bounds the distance of their
        # centres, here divided by the anchor's width.
        shift = max(1 - least_iou, (1 / least_iou - 1) / 2)
        height = base_scale * largest_scale * max(ratios) ** 0.5
        width = base_scale * largest_scale * min(ratios) ** -0.5
        return cls(
            min(math.ceil(height * shift) + 1, most_rows),
            min(math.ceil(width * shift) + 1, most_columns),
            min(levels, num_levels),
            lowest_side if levels < num_levels else 0.0,
            first_square,
        )

    @property
    def pairs_per_box(self) -> int:
        return self.num_levels * (2 * self.rows + 1) * (2 * self.columns + 1)

    def windows(
        self, grid: CellGrid, boxes: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The cells around boxes (N, m, 4), and their approximate anchors.

        Returns:
            cells: (N, m, levels, rows, columns) int64 into R, -1 where there is no cell;
            x1 and x2 of the columns' anchors: (2, N, m, levels, A, columns);
            y1 and y2 of the rows' anchors: (2, N, m, levels, A, rows).
        """
        device = boxes.device
        sizes = boxes[..., 2:] - boxes[..., :2]
        level = torch.arange(self.num_levels, device=device).expand(*boxes.shape[:2], -1)
        if self.lowest_side > 0:
            # The first level whose square's side is at least that share of the box's.
            side = sizes.prod(dim=2).sqrt() * self.lowest_side
            lowest = ((side / self.first_square).log2() - 0.005).ceil()
            level = level + lowest.clamp(-99, 99).long()[..., None]
        level_exists = (level >= 0) & (level < len(grid.sizes))
        level = level.clamp(0, len(grid.sizes) - 1)
        height, width, first, stride = grid.levels[level][..., None].unbind(dim=3)
        map_size = torch.cat([width, height], dim=3) * stride
        # For a centre beyond the map, its nearest cell: no other cell of the map is closer.
        nearest = nearest_cells(boxes[:, :, None], stride[..., 0], map_size)
        x, y = nearest[..., None].unbind(dim=3)
        column = x + torch.arange(-self.columns, self.columns + 1, device=device)
        row = y + torch.arange(-self.rows, self.rows + 1, device=device)
        column_exists = level_exists[..., None] & (column >= 0) & (column < width)
        row_exists = (row >= 0) & (row < height)
        cells = (first + row * width)[..., :, None] + column[..., None, :]
        cells = torch.where(row_exists[..., :, None] & column_exists[..., None, :], cells, -1)
        corners = offsets[level][..., None]  # (N, m, levels, A, 4, 1)
        anchor_x = (column * stride).float()[..., None, None, :] + corners[..., 0::2, :]
        anchor_y = (row * stride).float()[..., None, None, :] + corners[..., 1::2, :]
        return cells, anchor_x.movedim(4, 0), anchor_y.movedim(4, 0)


def _best_iou_in_windows(boxes: Tensor, anchor_x: Tensor, anchor_y: Tensor) -> Tensor:
    """Best IoU over the A approximate anchors: (N, m, levels, rows, columns).

    The intersection of anchor and box is the product of the shared width, which depends only on
    the column, and the shared height, which depends only on the row.
    """
    bx1, by1, bx2, by2 = boxes[:, :, None, None, None].unbind(dim=5)
    box_area = (bx2 - bx1) * (by2 - by1)  # (N, m, 1, 1, 1)
    (x1, x2), (y1, y2) = anchor_x, anchor_y
    width = (torch.min(x2, bx2) - torch.max(x1, bx1)).clamp_(min=0)
    height = (torch.min(y2, by2) - torch.max(y1, by1)).clamp_(min=0)
    anchor_width, anchor_height = x2 - x1, y2 - y1
    best: Tensor | None = None
    for a in range(x1.shape[3]):
        areas = anchor_height[..., a, :, None] * anchor_width[..., a, None, :]
        intersection = height[..., a, :, None] * width[..., a, None, :]
        iou = _iou(intersection, areas.add_(box_area))
        best = iou if best is None else torch.max(best, iou, out=best)
    assert best is not None
    return best


def _iou(intersection: Tensor, areas: Tensor) -> Tensor:
    """IoU in place of ``intersection``, from it and the sum of the areas."""
    return intersection.div_((areas - intersection).clamp_(min=1e-6))


def _per_cell(
    shape: Sequence[int], cells: Tensor, boxes: Tensor, iou: Tensor, claims: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce cell-box pairs to the values of :class:`_Found`.

    Args:
        shape: (N, R).
        cells, boxes: (k,) int64, the first into N * R.
        iou: (k,) float.
        claims: (k,) bool, whether the cell is one of its box's best.
    """
    none = iou.new_zeros(math.prod(shape))
    best = none.scatter_reduce(0, cells, iou, "amax")
    last = torch.iinfo(torch.int64).max
    is_best = (iou > 0) & (iou == best[cells])
    box = torch.full_like(none, last, dtype=torch.int64).scatter_reduce(
        0, cells, torch.where(is_best, boxes, last), "amin"
    )
    # Cells without a box still need a valid index.
    box = torch.where(best > 0, box, 0)
    claimed_by = torch.zeros_like(box).scatter_reduce(
        0, cells, torch.where(claims, boxes + 1, 0), "amax"
    )
    return best.view(*shape), box.view(*shape), claimed_by.view(*shape)


def _claims(iou: Tensor, best: Tensor, valid: Tensor, rule: MatchRule) -> Tensor:
    """(N, m, k) bool: the cells with a box's best IoU, if it reaches min_positive_iou."""
    return iou == _least_claim(best, valid, rule)[..., None]


def _least_claim(best: Tensor, valid: Tensor, rule: MatchRule) -> Tensor:
    """The IoU at which a box claims a cell: its best one, or infinity if it claims none."""
    eligible = valid & (best > 0) & (best >= rule.min_positive_iou)
    return torch.where(eligible, best, torch.inf)


def _chunks(ground_truth: GroundTruth, pairs_per_box: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index of the first box, boxes (N, m, 4) and validity (N, m) of chunks of at least one box."""
    limit = PAIRS_PER_CHUNK.get(ground_truth.boxes.device.type, PAIRS_PER_CHUNK["cpu"])
    step = max(1, limit // max(1, pairs_per_box))
    for start in range(0, ground_truth.boxes.shape[1], step):
        yield (
            start,
            ground_truth.boxes[:, start : start + step],
            ground_truth.valid[:, start : start + step],
        )
