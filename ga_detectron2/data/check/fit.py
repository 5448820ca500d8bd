"""How well anchors of given shapes could cover boxes: the best IoU of all cells, in closed form.

An anchor lies on a cell's centre, and its overlap with a box is a product of what they share in
width and in height, each of which falls with the distance of the centres. So of all cells of a
level the one nearest to the box's centre has the best IoU, and nothing needs to be searched.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ga_detectron2.modeling.anchors import approximate_anchor_offsets, nearest_cells

from .objects import Geometry, Objects

__all__ = [
    "RPN_RATIOS",
    "AnchorFit",
    "BestAnchors",
    "best_anchors",
    "best_iou",
    "centered_iou",
    "fit",
    "ideal_iou",
    "nearest_cells_by_level",
    "offsets",
]

RPN_RATIOS = (0.5, 1.0, 2.0)
"""Height to width of detectron2's RPN anchors, one scale a level."""

BOXES_PER_CHUNK = 1 << 15


class AnchorFit(NamedTuple):
    """The best IoU of each of G boxes, (G,) float32 each.

    Attributes:
        square: with the square of any cell.
        three_ratios: with RPN's three anchors of the squares' area, of any cell.
        approximate: with the approximate anchors (nine in the published models) of any cell.
        ideal: with a guided anchor of the best possible width and height, of the best cell of
            the one level on which training tells the location branch to fire.
    """

    square: Tensor
    three_ratios: Tensor
    approximate: Tensor
    ideal: Tensor


def fit(
    objects: Objects,
    geometry: Geometry,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> AnchorFit:
    """Compare the objects with what the kinds of anchors could reach.

    Args:
        objects: the boxes.
        geometry: of the anchors.
        progress: is given an iterable over parts of the work, such as ``tqdm`` wraps.
    """
    kinds = [
        _anchor_sizes(geometry, 1, (1.0,)),
        _anchor_sizes(geometry, 1, RPN_RATIOS),
        _anchor_sizes(geometry, geometry.scales_per_octave, geometry.aspect_ratios),
    ]
    parts = [torch.zeros(4, 0)]
    for start in progress(range(0, len(objects.boxes), BOXES_PER_CHUNK)):
        part = slice(start, start + BOXES_PER_CHUNK)
        boxes = objects.boxes[part]
        away = offsets(boxes, objects.image_sizes[part], geometry.strides)
        sizes = boxes[:, 2:] - boxes[:, :2]
        own = geometry.levels_of(boxes)[:, None, None].expand(-1, 1, 2)
        ideal = ideal_iou(sizes, away.gather(1, own)[:, 0])
        parts.append(torch.stack([*(best_iou(sizes, away, anchors) for anchors in kinds), ideal]))
    return AnchorFit(*torch.cat(parts, dim=1))


def offsets(boxes: Tensor, image_sizes: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Distance of each box's centre from that of the nearest cell, by level.

    Args:
        boxes: (G, 4) in pixels.
        image_sizes: (G, 2) width and height; cells lie within, as in training.
        strides: of L levels.

    Returns:
        (G, L, 2) in x and y, at least 0.
    """
    stride = torch.tensor(strides, dtype=boxes.dtype, device=boxes.device)[:, None]
    center = ((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None]
    return (center - nearest_cells_by_level(boxes, image_sizes, strides) * stride).abs()


def nearest_cells_by_level(boxes: Tensor, image_sizes: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Column and row of the cell nearest to each box's centre, by level; as :func:`offsets`.

    Returns:
        (G, L, 2) int64.
    """
    stride = torch.tensor(strides, dtype=boxes.dtype, device=boxes.device)
    return nearest_cells(boxes[:, None], stride, image_sizes[:, None])


def centered_iou(sizes: Tensor, distance: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes and anchors from their widths and heights and the distance of their centres.

    Args:
        sizes, distance, anchors: (..., 2), in x and y.

    Returns:
        (...).
    """
    shared = torch.minimum((sizes + anchors) / 2 - distance, torch.minimum(sizes, anchors))
    intersection = shared.clamp(min=0).prod(dim=-1)
    return intersection / (sizes.prod(dim=-1) + anchors.prod(dim=-1) - intersection)


def best_iou(sizes: Tensor, away: Tensor, anchors: Tensor) -> Tensor:
    """The best IoU of boxes with any anchor of the nearest cell of any level.

    Args:
        sizes: (G, 2) widths and heights.
        away: (G, L, 2), see :func:`offsets`.
        anchors: (L, A, 2) widths and heights.

    Returns:
        (G,).
    """
    iou = centered_iou(sizes[:, None, None], away[:, :, None], anchors)
    return iou.flatten(1).amax(dim=1)


def ideal_iou(sizes: Tensor, distance: Tensor) -> Tensor:
    """The best IoU that any box on a given centre can have with another box.

    Let a box of width w have its centre d away from the anchor's. As the anchor's width grows, the
    IoU rises until the anchor fills the box on the nearer side (w - 2d), and falls once it covers
    all of it (w + 2d). In between, intersection and union are linear in the anchor's width, so that
    their quotient has its largest value at one of the two ends. The same holds for the height: of
    the four combinations one is the best.

    Args:
        sizes: (..., 2) width and height.
        distance: (..., 2) of the centres in x and y, at least 0.

    Returns:
        (...).
    """
    within, around = (sizes - 2 * distance).clamp(min=0), sizes + 2 * distance
    widths = torch.stack([within[..., 0], within[..., 0], around[..., 0], around[..., 0]], dim=-1)
    heights = torch.stack([within[..., 1], around[..., 1], within[..., 1], around[..., 1]], dim=-1)
    anchors = torch.stack([widths, heights], dim=-1)
    return centered_iou(sizes[..., None, :], distance[..., None, :], anchors).amax(dim=-1)


class BestAnchors(NamedTuple):
    """The approximate anchor of the best IoU with each of G boxes.

    Attributes:
        boxes: (G, 4), x1, y1, x2, y2.
        iou: (G,) with the box.
        level: (G,) int64 of the anchor.
    """

    boxes: Tensor
    iou: Tensor
    level: Tensor


def best_anchors(boxes: Tensor, image_sizes: Tensor, geometry: Geometry) -> BestAnchors:
    """Of all cells the approximate anchors that cover boxes best.

    Args:
        boxes: (G, 4) in pixels.
        image_sizes: (G, 2) width and height.
        geometry: of the anchors.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    anchors = _anchor_sizes(geometry, geometry.scales_per_octave, geometry.aspect_ratios)
    away = offsets(boxes, image_sizes, geometry.strides)
    iou = centered_iou(sizes[:, None, None], away[:, :, None], anchors)
    best, index = iou.flatten(1).max(dim=1)
    level, shape = index // anchors.shape[1], index % anchors.shape[1]
    cells = nearest_cells_by_level(boxes, image_sizes, geometry.strides)
    stride = torch.tensor(geometry.strides, dtype=boxes.dtype)[level]
    cell = cells.gather(1, level[:, None, None].expand(-1, 1, 2))[:, 0]
    half = anchors[level, shape] / 2
    center = cell * stride[:, None]
    return BestAnchors(torch.cat([center - half, center + half], dim=1), best, level)


def _anchor_sizes(geometry: Geometry, scales: int, ratios: tuple[float, ...]) -> Tensor:
    """(L, A, 2) widths and heights of fixed anchors on the geometry's levels."""
    corners = approximate_anchor_offsets(
        geometry.strides, geometry.base_scale, scales, ratios, torch.device("cpu")
    )
    return corners[..., 2:] - corners[..., :2]
