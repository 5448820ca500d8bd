"""Targets of the location and shape branches for one image, drawn over it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ga_detectron2.data.check.report import number_of
from ga_detectron2.evaluation.anchor_stats import BestAnchors, best_approximate_anchors
from ga_detectron2.modeling.anchors import cells_inside_images
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.targets import pad_ground_truth

from .boxes import draw_anchor_matches, draw_ground_truth
from .canvas import Canvas
from .maps import PROBABILITY_COLORS, ImageAnchors, anchors_of_image, draw_location, over_grey
from .panel import compose_panel
from .style import COLORS, resize
from .tiles import TILE_SIDE, Tile, strides_legend

IGNORED = 0.5
"""Value of ignored cells where location targets are shown as probabilities."""
WITHOUT_TARGET = COLORS[4]


class ImageTargets(NamedTuple):
    """Targets of one image with R cells and G objects.

    Attributes:
        location: squares of the cells; ``probability`` is 1 at centres, ``IGNORED``, or 0 outside.
        shape_boxes: (R,) int64, the object whose shape a cell learns, -1 for none.
        levels: (G,) int64, the level that each object belongs to.
        best: the best approximate anchor of each object.
    """

    location: ImageAnchors
    shape_boxes: np.ndarray
    levels: np.ndarray
    best: BestAnchors


def targets_of_image(
    boxes: Tensor, input_size: tuple[int, int], settings: GuidedAnchoring
) -> ImageTargets:
    """The targets that training computes for an image alone in a batch.

    ``boxes`` (G, 4) are in pixels of the network's input, whose ``input_size`` is (height, width).
    """
    sizes = [(-(-input_size[0] // s), -(-input_size[1] // s)) for s in settings.strides]
    grid = settings.cell_grid(sizes, boxes.device)
    inside = cells_inside_images(grid, [input_size])
    truth = pad_ground_truth([Instances(input_size, gt_boxes=Boxes(boxes))])
    location = settings.location_targets(grid, truth)
    probability = torch.where(location.weights == 0, IGNORED, location.targets)
    matches = settings.match_cells(grid, inside, truth)
    squares = settings(sizes, probability.logit(), torch.zeros(1, len(grid.centers), 2))
    return ImageTargets(
        anchors_of_image(squares, input_size),
        torch.where(matches.labels[0] == 1, matches.boxes[0], -1).numpy(),
        settings.box_levels(boxes).numpy(),
        best_approximate_anchors(settings, grid, inside[0], boxes),
    )


def draw_shape_targets(image: np.ndarray, boxes: np.ndarray, targets: ImageTargets) -> np.ndarray:
    """Centres of the cells that learn an object's shape, coloured by level, over the objects.

    An object (G, 4) that no cell learns is drawn in vermilion, the others dashed.
    """
    canvas = Canvas(image)
    for i, box in enumerate(boxes):
        if i in targets.shape_boxes:
            canvas.draw_box(box, edge_color="white", line_style="--")
        else:
            canvas.draw_box(box, edge_color=WITHOUT_TARGET)
    cells = targets.shape_boxes >= 0
    centers = targets.location.centers[cells] * targets.location.scale_to(canvas.size)
    canvas.draw_dots(centers, targets.location.level[cells])
    return canvas.image()


def make_target_panel(
    image: np.ndarray,
    objects: Instances,
    settings: GuidedAnchoring,
    metadata: Any = None,
    title: str = "",
) -> np.ndarray:
    """One picture with the objects of an image and all targets.

    ``objects`` are ``gt_boxes`` and ``gt_classes`` of ``image`` as the network sees it, resized to
    their ``image_size``.
    """
    picture = resize(image, TILE_SIDE / max(image.shape[:2]))
    height, width = objects.image_size
    targets = targets_of_image(objects.gt_boxes.tensor.float(), (height, width), settings)
    location, best = targets.location, targets.best
    to_picture = np.tile(location.scale_to(picture.shape[:2]), 2)
    boxes, anchors = (x.numpy() * to_picture for x in (objects.gt_boxes.tensor, best.anchors))
    truth = Instances(picture.shape[:2], gt_boxes=Boxes(boxes), gt_classes=objects.gt_classes)

    learning = targets.shape_boxes >= 0
    without = len(boxes) - len(np.unique(targets.shape_boxes[learning]))
    region_colors = tuple(
        (tuple(over_grey(np.array(PROBABILITY_COLORS(value)[:3]))), words)
        for value, words in ((1.0, "centre"), (IGNORED, "ignored"), (0.0, "outside"))
    )
    shape_title = f"Shape targets: {number_of(learning.sum(), 'cell')} to learn an object's shape"
    best_levels = location.level[best.cells.numpy()]
    tiles = [
        Tile(
            "ground_truth",
            f"{number_of(len(boxes), 'object')}; the network sees {width}×{height} px",
            draw_ground_truth(picture, truth, metadata),
        ),
        Tile(
            "location",
            "Location targets, all levels",
            draw_location(picture, location, vmax=1.0),
            region_colors,
        ),
        Tile(
            "shape",
            shape_title + (f"; {number_of(without, 'object')} without" if without else ""),
            draw_shape_targets(picture, boxes, targets),
            strides_legend(location, location.level[learning]),
        ),
        Tile(
            "approximate",
            "Best approximate anchor of each object (dashed), with its IoU",
            draw_anchor_matches(picture, boxes, anchors, best.iou, best_levels),
            strides_legend(location, best_levels),
        ),
    ]
    for level, values in enumerate(location.level_maps(location.probability)):
        objects_here = number_of((targets.levels == level).sum(), "object")
        centers_here = number_of((values == 1).sum(), "centre cell")
        drawn = draw_location(picture, location, level=level, vmax=1.0)
        text = f"stride {location.strides[level]}: {objects_here}, {centers_here}"
        tiles.append(Tile("levels", text, drawn, small=True))
    return compose_panel(tiles, title)
