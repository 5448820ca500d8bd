"""What the shape branch predicts for objects whose shapes are known."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, pairwise_iou

from ga_detectron2.modeling.anchors import make_squares
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors

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
    guided: GuidedAnchors, boxes: torch.Tensor, settings: GuidedAnchoring, index: int = 0
) -> BoxShapes:
    """The guided anchor of the cell nearest to each object's centre, on the level of its size.

    Args:
        guided: of the batch with this image.
        boxes: (G, 4) objects in pixels of the network's input.
        settings: of the model.
        index: of the image in the batch.
    """
    grid = guided.grid
    boxes = boxes.float().to(grid.centers.device)
    cells = settings.nearest_cells(grid, boxes)
    anchors = guided.anchors[index, cells].detach().float().cpu()
    squares = make_squares(grid, settings.base_scale)[cells].cpu()
    boxes = boxes.cpu()
    return BoxShapes(
        (boxes[:, 2:] - boxes[:, :2]).numpy(),
        (anchors[:, 2:] - anchors[:, :2]).numpy(),
        (squares[:, 2] - squares[:, 0]).numpy(),
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
