"""Square, approximate anchors and guided anchor of one cell, next to an object."""

import torch
from matplotlib.figure import Figure
from panel import BLUE, DEEP_BLUE, INK, ORANGE, RED, add_box, explain, new_panel
from torchvision.ops import box_iou

from ga_detectron2.modeling.anchors import (
    approximate_anchor_offsets,
    make_cell_grid,
    make_guided_anchors,
    make_squares,
)

# As in configs/Base-GARPN.yaml.
BASE_SCALE, SHAPE_WEIGHT = 8, 1 / 0.14
STRIDES = (4, 8, 16, 32, 64)
LEVEL, CELL = 2, (12, 12)  # of stride 16, at (192, 192)
OBJECT = torch.tensor([[164.0, 62.0, 212.0, 318.0]])  # 48 x 256 pixels, a pole
SIZE = 384


def draw() -> dict[str, Figure]:
    """Figures by name."""
    grid = make_cell_grid(
        tuple((SIZE // s, SIZE // s) for s in STRIDES), STRIDES, torch.device("cpu")
    )
    row, column = CELL
    cell = sum(grid.cells_per_level[:LEVEL]) + row * grid.sizes[LEVEL][1] + column
    center, stride = grid.centers[cell], grid.stride[cell]
    square = make_squares(grid, BASE_SCALE)[cell][None]
    offsets = approximate_anchor_offsets(
        STRIDES, BASE_SCALE, 3, (0.5, 1.0, 2.0), torch.device("cpu")
    )
    approximate = offsets[LEVEL] + center.repeat(2)
    # Shape outputs that give the object's width and height.
    wanted = (OBJECT[0, 2:] - OBJECT[0, :2]) / (BASE_SCALE * stride)
    deltas = SHAPE_WEIGHT * wanted.log()
    guided = make_guided_anchors(center, stride, deltas, BASE_SCALE, (SHAPE_WEIGHT,) * 2)[None]

    pictures = {
        "square": (square, DEEP_BLUE, "The square", "where the prediction starts"),
        "approximate": (approximate, ORANGE, "Nine approximate anchors", "only to assign targets"),
        "guided": (guided, RED, "The guided anchor", "the square, rescaled by the shape branch"),
    }
    figures = {}
    for name, (boxes, color, title, what) in pictures.items():
        figure, axes = new_panel(title, (12, 372), (40, 400))
        add_box(axes, OBJECT[0], BLUE, fill=True, alpha=0.35, linewidth=0)
        if name == "guided":
            add_box(axes, square[0], DEEP_BLUE, linestyle=":", linewidth=1.4)
        for box in boxes:
            add_box(axes, box, color, linewidth=1.2 if len(boxes) > 1 else 2.4)
        axes.plot(*center, "o", color=INK, markersize=5)
        best = float(box_iou(boxes, OBJECT).max())
        width, height = (OBJECT[0, 2:] - OBJECT[0, :2]).int().tolist()
        explain(
            axes,
            f"{what}\n{'best ' if len(boxes) > 1 else ''}IoU with the object: {best:.2f}\n"
            f"pale: the object, {width} × {height} pixels",
        )
        figures[name] = figure
    figures["squares"] = _squares_of_levels()
    return figures


def _squares_of_levels() -> Figure:
    figure, axes = new_panel("Squares of the five levels, in pixels", (-300, 300), (-300, 300))
    for stride in STRIDES:
        grid = make_cell_grid(((1, 1),), (stride,), torch.device("cpu"))
        box = make_squares(grid, BASE_SCALE)[0]
        add_box(axes, box, DEEP_BLUE, linewidth=1.6)
        side = int(box[2] - box[0])
        if side > 128:
            axes.text(
                float(box[0]) + 6,
                float(box[1]) + 6,
                f"stride {stride}: {side}",
                va="top",
                fontsize=9,
            )
    axes.annotate(
        "strides 4, 8 and 16:\n32, 64 and 128",
        (0, 64),
        (-70, 205),
        fontsize=9,
        arrowprops={"arrowstyle": "->", "color": INK},
    )
    axes.plot(0, 0, "o", color=INK, markersize=3)
    return figure
