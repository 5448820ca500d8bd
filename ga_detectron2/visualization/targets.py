"""What training tells the location and shape branches about one image, drawn over it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ga_detectron2.data.check.fit import best_anchors
from ga_detectron2.data.check.report import number_of
from ga_detectron2.modeling.anchors import CellGrid, cells_inside_images
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors
from ga_detectron2.modeling.targets import pad_ground_truth

from .anchors import draw_anchor_matches
from .canvas import Canvas
from .location import OPACITY, draw_location
from .panel import TILE_SIDE, Tile, compose_panel
from .predictions import draw_ground_truth
from .style import COLORS, color_of, probability_colors

__all__ = ["ImageTargets", "draw_shape_targets", "make_target_panel", "targets_of_image"]

IGNORED = 0.5
"""Stands for "takes no part" where location targets are shown as probabilities."""
WITHOUT_TARGET = COLORS[4]


class ImageTargets(NamedTuple):
    """Targets of one image, of R cells.

    Attributes:
        grid: the cells.
        location: (R,) float32: 1 centre, ``IGNORED``, 0 outside.
        shape_boxes: (R,) int64, the object whose shape a cell learns, -1 for none.
        levels: (G,) int64, the level that each object belongs to.
    """

    grid: CellGrid
    location: torch.Tensor
    shape_boxes: torch.Tensor
    levels: torch.Tensor

    def as_guided_anchors(self) -> GuidedAnchors:
        """The location targets as probabilities, which pictures of the location branch take."""
        cells = len(self.location)
        return GuidedAnchors(
            self.grid,
            self.location.logit()[None],
            torch.zeros(1, cells, 2),
            self.grid.centers.repeat(1, 2)[None],
        )


def targets_of_image(
    boxes: torch.Tensor, input_size: tuple[int, int], settings: GuidedAnchoring
) -> ImageTargets:
    """The targets, by the functions that training uses.

    Args:
        boxes: (G, 4) objects in pixels of the network's input.
        input_size: (height, width) of the image as the network sees it, alone in a batch.
        settings: of the model.
    """
    sizes = tuple((-(-input_size[0] // s), -(-input_size[1] // s)) for s in settings.strides)
    grid = settings.cell_grid(sizes, boxes.device)
    truth = pad_ground_truth([Instances(input_size, gt_boxes=Boxes(boxes))])
    location = settings.location_targets(grid, truth)
    matches = settings.match_cells(grid, cells_inside_images(grid, [input_size]), truth)
    return ImageTargets(
        grid,
        torch.where(location.weights[0] == 0, IGNORED, location.targets[0]),
        torch.where(matches.labels[0] == 1, matches.boxes[0], -1),
        settings.box_levels(boxes),
    )


def draw_shape_targets(
    image: np.ndarray,
    boxes: np.ndarray,
    targets: ImageTargets,
    input_size: tuple[int, int],
    scale: float = 1.0,
) -> np.ndarray:
    """Centres of the cells that learn an object's shape, coloured by level, over the objects.

    An object that no cell learns is drawn in vermilion, the others dashed.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) objects in pixels of ``image``.
        targets: of the image.
        input_size: (height, width) as the network sees it.
        scale: enlarges the picture.
    """
    canvas = Canvas(image, scale=scale)
    learned = set(targets.shape_boxes.unique().tolist())
    for i, box in enumerate(boxes * scale):
        if i in learned:
            canvas.draw_box(box, edge_color="white", line_style="--")
        else:
            canvas.draw_box(box, edge_color=WITHOUT_TARGET)
    cells = torch.nonzero(targets.shape_boxes >= 0)[:, 0]
    if len(cells):
        size = np.array([canvas.output.width, canvas.output.height])
        xy = targets.grid.centers[cells].numpy() * size / np.array(input_size[::-1])
        canvas.output.ax.scatter(
            *xy.T,
            s=22,
            c=[color_of(i) for i in _level_of_cells(targets.grid)[cells].tolist()],
            edgecolors="black",
            linewidths=0.6,
            zorder=4,
        )
    canvas.output.ax.set(xlim=(0, canvas.output.width), ylim=(canvas.output.height, 0))
    return canvas.image()


def make_target_panel(
    image: np.ndarray,
    objects: Instances,
    input_size: tuple[int, int],
    settings: GuidedAnchoring,
    metadata: Any = None,
    title: str = "",
    side: int = TILE_SIDE,
) -> np.ndarray:
    """One picture with the objects of an image and all targets.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: ``gt_boxes`` and ``gt_classes``, in pixels of ``image``.
        input_size: (height, width) as the network sees it.
        settings: of the model.
        metadata: of detectron2, for the names of classes.
        title: of the whole.
        side: pixels of the longer side of a picture.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = side / max(image.shape[:2])
    to_input = torch.tensor([input_size[1] / image.shape[1], input_size[0] / image.shape[0]])
    to_input = to_input.repeat(2)
    boxes = objects.gt_boxes.tensor.float()
    targets = targets_of_image(boxes * to_input, input_size, settings)
    limits = torch.tensor(input_size[::-1], dtype=torch.float32).expand(len(boxes), 2)
    best = best_anchors(boxes * to_input, limits, settings)
    guided = targets.as_guided_anchors()
    objects_text = number_of(len(boxes), "object")

    learning = targets.shape_boxes[targets.shape_boxes >= 0]
    missing = len(boxes) - len(learning.unique())
    cell_levels = _level_of_cells(targets.grid)[targets.shape_boxes >= 0]
    tiles = [
        Tile(
            "ground_truth",
            f"{objects_text}; the network sees {input_size[1]}×{input_size[0]} pixels",
            draw_ground_truth(image, objects, metadata, scale=scale),
        ),
        Tile(
            "location",
            "Location targets, all levels",
            draw_location(image, guided, input_size, vmax=1.0, scale=scale),
            legend=tuple(
                (_shade(value), words)
                for value, words in ((1.0, "centre"), (IGNORED, "ignored"), (0.0, "outside"))
            ),
        ),
        Tile(
            "shape",
            f"Shape targets: {number_of(len(learning), 'cell')} to learn an object's shape"
            + (f"; {number_of(missing, 'object')} without" if missing else ""),
            draw_shape_targets(image, boxes.numpy(), targets, input_size, scale),
            legend=_strides_legend(settings.strides, cell_levels),
        ),
        Tile(
            "approximate",
            "The best approximate anchor of each object (dashed), and its IoU",
            draw_anchor_matches(
                image,
                boxes.numpy(),
                (best.boxes / to_input).numpy(),
                best.iou.numpy(),
                best.level.tolist(),
                scale,
            ),
            legend=_strides_legend(settings.strides, best.level),
        ),
    ]
    for level, (stride, values) in enumerate(
        zip(settings.strides, targets.location.split(targets.grid.cells_per_level), strict=True)
    ):
        tiles.append(
            Tile(
                "levels",
                f"stride {stride}: {number_of(int((targets.levels == level).sum()), 'object')}, "
                f"{number_of(int((values == 1).sum()), 'centre cell')}",
                draw_location(image, guided, input_size, level=level, vmax=1.0, scale=scale),
                small=True,
            )
        )
    return compose_panel(tiles, title)


def _level_of_cells(grid: CellGrid) -> torch.Tensor:
    """(R,) int64."""
    counts = torch.tensor(grid.cells_per_level)
    return torch.arange(len(counts)).repeat_interleave(counts)


def _strides_legend(strides: Sequence[int], levels: torch.Tensor) -> tuple[tuple[Any, str], ...]:
    return tuple(
        (color_of(i), f"stride {stride} ({int((levels == i).sum())})")
        for i, stride in enumerate(strides)
    )


def _shade(value: float) -> tuple[float, ...]:
    """The colour of a target in the heat map, on mean grey."""
    return tuple(OPACITY * x + (1 - OPACITY) * 0.5 for x in probability_colors()(value)[:3])
