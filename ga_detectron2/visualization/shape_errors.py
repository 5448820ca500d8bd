"""What the shape branch predicts for objects whose shapes are known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors
from ga_detectron2.modeling.targets import box_levels

__all__ = ["BoxShapes", "best_anchors", "measure_shapes"]


class BoxShapes(NamedTuple):
    """Widths and heights of G objects and of their anchors, in pixels of the network's input.

    Attributes:
        truth, guided: (G, 2), width and height of the object and of its guided anchor.
        square: (G,), side of the square of the same cell.
        guided_iou, square_iou: (G,) with the object.
    """

    truth: np.ndarray
    guided: np.ndarray
    square: np.ndarray
    guided_iou: np.ndarray
    square_iou: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["BoxShapes"]) -> "BoxShapes":
        """Of several images."""
        return cls(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def measure_shapes(
    guided: GuidedAnchors, boxes: torch.Tensor, base_scale: float, index: int = 0
) -> BoxShapes:
    """The guided anchor of the cell nearest to each object's centre, on the level of its size.

    Args:
        guided: of the batch with this image.
        boxes: (G, 4) objects in pixels of the network's input.
        base_scale: side of the squares in strides (``MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE``).
        index: of the image in the batch.
    """
    grid = guided.grid
    boxes = boxes.float().cpu()
    levels = box_levels(boxes, len(grid.sizes), grid.strides[0], base_scale).long().tolist()
    maps = grid.split_levels(guided.anchors.detach().float().cpu()[index : index + 1])
    anchors, squares = torch.empty_like(boxes), torch.empty_like(boxes)
    sides = torch.empty(len(boxes))
    for i, (box, level) in enumerate(zip(boxes, levels, strict=True)):
        stride, (height, width) = grid.strides[level], grid.sizes[level]
        x = ((box[0] + box[2]) / 2 / stride).round().long().clamp(0, width - 1)
        y = ((box[1] + box[3]) / 2 / stride).round().long().clamp(0, height - 1)
        anchors[i] = maps[level][0, y, x]
        sides[i] = base_scale * stride
        center = torch.stack([x, y]) * stride
        squares[i] = torch.cat([center - sides[i] / 2, center + sides[i] / 2])
    return BoxShapes(
        (boxes[:, 2:] - boxes[:, :2]).numpy(),
        (anchors[:, 2:] - anchors[:, :2]).numpy(),
        sides.numpy(),
        pairwise_iou(Boxes(anchors), Boxes(boxes)).diagonal().numpy(),
        pairwise_iou(Boxes(squares), Boxes(boxes)).diagonal().numpy(),
    )


def best_anchors(boxes: torch.Tensor, anchors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The anchor of the highest IoU with each object.

    Args:
        boxes: (G, 4).
        anchors: (R, 4), at least one.

    Returns:
        (G,) int64 into ``anchors``, (G,) their IoU.
    """
    iou, best = pairwise_iou(Boxes(boxes.float()), Boxes(anchors.float())).max(dim=1)
    return best.numpy(), iou.numpy()
