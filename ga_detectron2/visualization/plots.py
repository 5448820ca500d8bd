"""Plots of results and data: recall of proposals, shapes of anchors and of objects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from ga_detectron2.data.check.report import number_of
from ga_detectron2.modeling.anchors import make_squares
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors

from .style import COLORS, color_of, figure_image, new_figure, tidy_axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Besides colours, so that curves can be distinguished in a grey print, too."""
MAX_POINTS = 5000
"""Objects that are drawn; more would only cover each other."""
LINE_COLORS = [COLORS[i] for i in (6, 4, 2, 5, 0)]
"""The darker ones of the palette, for curves on white."""
RPN_RATIOS = (0.5, 2.0)
"""Height over width of detectron2's RPN anchors, besides squares."""


class RecallCurve(NamedTuple):
    """Recall of a model's proposals against their number.

    Attributes:
        name: name of the model.
        limits: numbers of best proposals per image, in ascending order.
        recall: average recall in percent at each.
    """

    name: str
    limits: Sequence[float]
    recall: Sequence[float]


def plot_recall_curves(curves: Sequence[RecallCurve], title: str = "") -> np.ndarray:
    """Average recall against the number of proposals per image, for one or more models."""
    figure = new_figure(900, 620)
    axes = figure.subplots()
    axes.set_prop_cycle(color=LINE_COLORS)
    for i, (name, limits, recall) in enumerate(curves):
        axes.plot(limits, recall, marker=MARKERS[i % len(MARKERS)], label=name)
    axes.set_xscale("log")
    limits = sorted({limit for curve in curves for limit in curve.limits})
    if len(limits) <= 12:
        axes.set_xticks(limits)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_ylim(0, min(100, 1.1 * max(max(curve.recall) for curve in curves)) or 1)
    tidy_axes(axes, "proposals per image", "average recall, IoU 0.5 to 0.95 (%)")
    axes.set_title(title or "Recall of proposals", fontsize=14, loc="left", parse_math=False)
    legend = axes.legend(fontsize=12, frameon=False, loc="lower right")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure_image(figure)


class BoxShapes(NamedTuple):
    """Widths and heights of G objects and of their anchors, in pixels of the network's input.

    Attributes:
        truth, guided: (G, 2), width and height of the object and of its guided anchor.
        square: (G,), side of the square of the same cell.
        guided_iou, square_iou: (G,), IoU with the object.
    """

    truth: np.ndarray
    guided: np.ndarray
    square: np.ndarray
    guided_iou: np.ndarray
    square_iou: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["BoxShapes"]) -> "BoxShapes":
        """Concatenate the shapes of several images."""
        return cls(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def measure_shapes(guided: GuidedAnchors, boxes: Tensor, settings: GuidedAnchoring) -> BoxShapes:
    """The guided anchor of the cell nearest to each object's centre, on the object's level.

    ``guided`` are those of a batch with a single image; its objects ``boxes`` (G, 4) are in pixels
    of the network's input.
    """
    boxes = boxes.float().to(guided.anchors.device)
    cells = settings.nearest_cells(guided.grid, boxes)
    anchors = guided.anchors[0, cells].detach().float()
    squares = make_squares(guided.grid, settings.base_scale)[cells]
    truth, guided_sizes, square = (x[:, 2:] - x[:, :2] for x in (boxes, anchors, squares))
    ious = [matched_pairwise_iou(Boxes(x), Boxes(boxes)) for x in (anchors, squares)]
    return BoxShapes(*(x.cpu().numpy() for x in (truth, guided_sizes, square[:, 0], *ious)))


def plot_box_shapes(shapes: BoxShapes, title: str = "") -> np.ndarray:
    """Width and height of the guided anchor at each object's centre against those of the object."""
    figure = new_figure(1200, 680)
    values = np.concatenate([shapes.truth, shapes.guided])
    low, high = values.min() / 1.3, values.max() * 1.3
    for i, (name, axes) in enumerate(zip(("width", "height"), figure.subplots(1, 2), strict=True)):
        axes.plot([low, high], [low, high], color="black", linewidth=1, label="equal to the object")
        for values, marker, color, label in (
            (shapes.square, "x", 1, f"square (mean IoU {shapes.square_iou.mean():.2f})"),
            (shapes.guided[:, i], "o", 0, f"guided (mean IoU {shapes.guided_iou.mean():.2f})"),
        ):
            style: dict[str, Any] = {"s": 16, "marker": marker, "linewidths": 0.8, "alpha": 0.6}
            axes.scatter(shapes.truth[:, i], values, color=LINE_COLORS[color], label=label, **style)
        _scale_by_octaves(axes, low, high)
        tidy_axes(axes, f"{name} of the object (pixels)", f"{name} of the anchor (pixels)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=12, frameon=False)
    note = (
        f"{number_of(len(shapes.truth), 'object')}, each with the anchor of the cell nearest to "
        "its centre on the level of its size; pixels of the network's input"
    )
    figure.suptitle(f"{title or 'Shapes of guided anchors'}\n{note}", parse_math=False)
    return figure_image(figure)


def plot_dataset_shapes(boxes: Tensor, settings: GuidedAnchoring, title: str = "") -> np.ndarray:
    """Objects of a dataset as points, coloured by the level that training assigns them to.

    Squares and crosses are the model's squares and the two other ratios of detectron2's RPN; lines
    separate the levels. ``boxes`` (G, 4) are in pixels of the network's input.
    """
    levels = settings.box_levels(boxes)
    sizes = boxes[:, 2:] - boxes[:, :2]
    chosen = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))[:MAX_POINTS]
    squares = settings.base_scale * np.array(settings.strides)
    low = min(float(sizes.min()), squares[0] / 2) / 1.2
    high = max(float(sizes.max()), squares[-1] * 2) * 1.2

    figure = new_figure(1080, 800)
    axes = figure.subplots()
    for i, stride in enumerate(settings.strides):
        width, height = sizes[chosen][levels[chosen] == i].T
        label = f"stride {stride}: {number_of(int((levels == i).sum()), 'object')}"
        style: dict[str, Any] = {"s": 12, "alpha": 0.75, "linewidths": 0.3, "edgecolors": "0.25"}
        axes.scatter(width, height, color=color_of(i), label=label, **style)
    # Width times height is constant along the border of two levels: a line in this plot.
    for square in squares[:-1] * 2**0.5:
        axes.plot([low, high], [square**2 / low, square**2 / high], color="0.6", linewidth=0.9)
    for ratio, name in ((3, "1:3"), (6, "1:6"), (1 / 3, "3:1"), (1 / 6, "6:1")):
        axes.axline((1, ratio), (2, 2 * ratio), color="0.6", linewidth=0.9, linestyle=":")
        end = (min(high, high / ratio), min(high, high * ratio))
        below = (-4, 2 if ratio < 1 else -12)
        axes.annotate(
            name, end, below, textcoords="offset points", fontsize=10, color="0.35", ha="right"
        )
    root = np.array(RPN_RATIOS)[:, None] ** 0.5
    dark: dict[str, Any] = {"color": "0.15", "zorder": 4}
    label = "RPN's other two ratios"
    axes.scatter(squares / root, squares * root, 70, marker="x", label=label, **dark)
    hollow: dict[str, Any] = {"marker": "s", "facecolors": "none", "linewidths": 2}
    label = f"squares ({settings.base_scale:g} strides)"
    axes.scatter(squares, squares, 90, label=label, **hollow, **dark)
    _scale_by_octaves(axes, low, high)
    tidy_axes(axes, *(f"{side} (pixels of the network's input)" for side in ("width", "height")))
    figure.legend(loc="outside right center", fontsize=11, frameon=False)
    drawn = f", {MAX_POINTS} drawn" if len(boxes) > MAX_POINTS else ""
    note = (
        f"{number_of(len(boxes), 'object')}{drawn}; each belongs to the level whose square is "
        "nearest to its size"
    )
    figure.suptitle(f"{title or 'Shapes of objects'}\n{note}", parse_math=False)
    return figure_image(figure)


def _scale_by_octaves(axes: Axes, low: float, high: float) -> None:
    """Two equal logarithmic axes with a tick at each power of two."""
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=2, numticks=16))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_locator(NullLocator())
