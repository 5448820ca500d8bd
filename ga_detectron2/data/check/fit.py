"""The best IoU that anchors of given shapes could reach with boxes, in closed form.

Anchors are centred on cells. The overlap of an anchor and a box is a product of an overlap in width
and one in height, each of which falls with the distance of the centres. So the cell nearest to the
box's centre has the best IoU on its level, and no search is needed.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ga_detectron2.modeling.anchors import approximate_anchor_offsets, nearest_cells
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .objects import Objects, with_changes

__all__ = ["AnchorFit", "centered_iou", "centers_of_nearest_cells", "fit", "ideal_iou"]

RPN_RATIOS = (0.5, 1.0, 2.0)
"""Height to width of detectron2's RPN anchors, one scale a level."""

BOXES_PER_CHUNK = 1 << 15


class AnchorFit(NamedTuple):
    """The best IoU of each of G boxes, (G,) float32 each.

    Attributes:
        square: best IoU with the square of any cell.
        three_ratios: best IoU with the RPN's three anchors of the squares' area, of any cell.
        approximate: best IoU with the approximate anchors of any cell (nine a cell in the published
            models).
        ideal: IoU with a guided anchor of the best width and height, of the nearest cell on the one
            level where training makes the location branch respond.
    """

    square: Tensor
    three_ratios: Tensor
    approximate: Tensor
    ideal: Tensor


def fit(objects: Objects, settings: GuidedAnchoring) -> AnchorFit:
    """Compare objects with what each kind of anchors could reach."""
    one_scale = with_changes(settings, scales_per_octave=1)
    fixed = [
        _anchor_sizes(with_changes(one_scale, aspect_ratios=(1.0,))),
        _anchor_sizes(with_changes(one_scale, aspect_ratios=RPN_RATIOS)),
        _anchor_sizes(settings),
    ]
    parts = [torch.zeros(4, 0)]
    for start in range(0, len(objects.boxes), BOXES_PER_CHUNK):
        boxes, image_sizes = (x[start : start + BOXES_PER_CHUNK] for x in objects[:2])
        sizes, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
        away = (center[:, None] - centers_of_nearest_cells(boxes, image_sizes, settings)).abs()
        own = away.take_along_dim(settings.box_levels(boxes)[:, None, None], dim=1)[:, 0]
        ious = (centered_iou(sizes[:, None, None], away[:, :, None], x) for x in fixed)
        best = [iou.flatten(1).amax(dim=1) for iou in ious]
        parts.append(torch.stack([*best, ideal_iou(sizes, own)]))
    return AnchorFit(*torch.cat(parts, dim=1))


def centers_of_nearest_cells(
    boxes: Tensor, image_sizes: Tensor, settings: GuidedAnchoring
) -> Tensor:
    """Centres of the cells nearest to the centres of boxes, on every level.

    Args:
        boxes: (G, 4) in pixels.
        image_sizes: (G, 2) width and height; only cells within the image are considered.
        settings: settings with L strides.

    Returns:
        (G, L, 2) in pixels.
    """
    stride = torch.tensor(settings.strides, dtype=boxes.dtype, device=boxes.device)
    return nearest_cells(boxes[:, None], stride, image_sizes[:, None]) * stride[:, None]


def centered_iou(sizes: Tensor, distance: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes and anchors from their sizes and the distance of their centres.

    Args:
        sizes, distance, anchors: (..., 2), in x and y.

    Returns:
        (...).
    """
    shared = torch.minimum((sizes + anchors) / 2 - distance, torch.minimum(sizes, anchors))
    intersection = shared.clamp(min=0).prod(dim=-1)
    return intersection / (sizes.prod(dim=-1) + anchors.prod(dim=-1) - intersection)


def ideal_iou(sizes: Tensor, distance: Tensor) -> Tensor:
    """The best IoU that any anchor on a given centre can have with a box.

    Let the centres be d apart in x and the box have width w. As the anchor's width grows, the IoU
    rises until the anchor fills the box on the nearer side (w - 2d), and falls once it covers all
    of the box (w + 2d). In between, intersection and union are linear in the anchor's width, so
    that the IoU is largest at one of the two ends. The same holds for the height: one of the four
    combinations is the best.

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


def _anchor_sizes(settings: GuidedAnchoring) -> Tensor:
    """(L, A, 2) widths and heights of the approximate anchors."""
    corners = approximate_anchor_offsets(
        tuple(settings.strides),
        settings.base_scale,
        settings.scales_per_octave,
        tuple(settings.aspect_ratios),
        torch.device("cpu"),
    )
    return corners[..., 2:] - corners[..., :2]
