"""Guided anchors, coloured by level."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.patheffects import withStroke
from torchvision.ops import nms

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

from .canvas import Canvas
from .image_anchors import ImageAnchors, anchors_of_image
from .style import color_of

__all__ = [
    "SelectedAnchors",
    "draw_anchor_matches",
    "draw_boxes_by_level",
    "draw_guided_anchors",
    "select_anchors",
]

MAX_ANCHORS = 25
MAX_OVERLAP = 0.6
"""What is drawn unless asked otherwise: more anchors, or nearly equal ones, hide each other."""
LINE_WIDTH = 1.2
"""In points."""


class SelectedAnchors(NamedTuple):
    """The anchors to draw, and of how many.

    Attributes:
        cells: (k,) int64 into the R cells, highest location probability first.
        num_kept: cells that pass the location filter.
        num_cells: R.
    """

    cells: np.ndarray
    num_kept: int
    num_cells: int


def select_anchors(
    anchors: ImageAnchors,
    threshold: float,
    max_anchors: int | None = None,
    max_overlap: float = 1.0,
) -> SelectedAnchors:
    """Of the cells that pass the location filter, those of the highest location probability.

    Args:
        anchors: of the image.
        threshold: location probability from which on a cell is kept
            (``MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH``).
        max_anchors: how many at most; without it all.
        max_overlap: an anchor is left out if its IoU with a likelier one is higher.
    """
    kept = np.flatnonzero(anchors.probability >= threshold)
    order = kept[np.argsort(-anchors.probability[kept], kind="stable")]
    if max_overlap < 1 and len(order):
        ranks = torch.arange(len(order), 0, -1, dtype=torch.float32)
        order = order[nms(torch.from_numpy(anchors.boxes[order]), ranks, max_overlap).numpy()]
    return SelectedAnchors(order[:max_anchors], len(kept), len(anchors.probability))


def draw_guided_anchors(
    image: np.ndarray,
    guided: GuidedAnchors,
    input_size: tuple[int, int],
    index: int = 0,
    *,
    threshold: float = 0.01,
    max_anchors: int | None = MAX_ANCHORS,
    max_overlap: float = MAX_OVERLAP,
    scale: float = 1.0,
) -> np.ndarray:
    """The guided anchors of the best cells that pass the location filter, with the cells' centres.

    Neighbouring cells see the same object; anchors that differ little are drawn once.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        guided: of the batch with this image.
        input_size: (height, width) of this image as the network saw it, before padding.
        index: of the image in the batch.
        threshold, max_anchors, max_overlap: see :func:`select_anchors`, which also says how many
            there are.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, scale=scale)
    size = (canvas.output.height, canvas.output.width)
    anchors = anchors_of_image(guided, index, input_size, size)
    cells = select_anchors(anchors, threshold, max_anchors, max_overlap).cells
    if not len(cells):
        return canvas.image()  # matplotlib would mark the origin for no points at all
    _add_boxes(canvas, anchors.boxes[cells], anchors.level[cells])
    canvas.output.ax.scatter(
        *anchors.centers[cells].T,
        s=14,
        c=[color_of(i) for i in anchors.level[cells]],
        edgecolors="black",
        linewidths=0.6,
        zorder=4,
    )
    return _within(canvas)


def draw_boxes_by_level(
    image: np.ndarray, boxes: np.ndarray, levels: Sequence[int], scale: float = 1.0
) -> np.ndarray:
    """Any boxes (k, 4) in pixels of ``image``, coloured by level as guided anchors are."""
    canvas = Canvas(image, scale=scale)
    _add_boxes(canvas, np.asarray(boxes, dtype=np.float32) * scale, np.asarray(levels, dtype=int))
    return _within(canvas)


def draw_anchor_matches(
    image: np.ndarray,
    ground_truth: np.ndarray,
    anchors: np.ndarray,
    ious: np.ndarray,
    levels: Sequence[int],
    scale: float = 1.0,
) -> np.ndarray:
    """Objects as dashed white boxes, each with its best anchor in its level's colour and their IoU.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth, anchors: (k, 4) in pixels of ``image``, matched by position.
        ious: (k,).
        levels: of the anchors.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, scale=scale)
    for box in np.asarray(ground_truth) * scale:
        canvas.draw_box(box, edge_color="white", line_style="--")
    boxes = np.asarray(anchors, dtype=np.float32).reshape(-1, 4) * scale
    canvas.overlay_instances(
        boxes=boxes,
        labels=[f"{iou:.2f}" for iou in ious],
        assigned_colors=[color_of(i) for i in levels],
    )
    return _within(canvas)


def _add_boxes(canvas: Canvas, boxes: np.ndarray, levels: np.ndarray) -> None:
    # One collection instead of the Visualizer's draw_box for each: there may be hundreds.
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    canvas.output.ax.add_collection(
        PolyCollection(
            list(corners[::-1]),  # the best on top
            facecolors="none",
            edgecolors=[color_of(i) for i in levels[::-1]],
            linewidths=LINE_WIDTH,
            path_effects=[withStroke(linewidth=LINE_WIDTH + 1.2, foreground="black")],
            zorder=3,
        ),
        autolim=False,
    )


def _within(canvas: Canvas) -> np.ndarray:
    """The picture, with nothing beyond the image that boxes may reach out of."""
    canvas.output.ax.set(xlim=(0, canvas.output.width), ylim=(canvas.output.height, 0))
    return canvas.image()
