"""Widths and heights of the objects of a data set against a model's squares and fixed anchors."""

import numpy as np
import torch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ga_detectron2.data.check.fit import RPN_RATIOS
from ga_detectron2.data.check.objects import Objects, squares_of
from ga_detectron2.data.check.report import number_of
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .style import color_of, figure_image, new_figure

__all__ = ["plot_dataset_shapes"]

MAX_POINTS = 5000
"""More objects are sampled: points would only cover each other."""
ANCHOR_COLOR = "0.15"


def plot_dataset_shapes(objects: Objects, settings: GuidedAnchoring, title: str = "") -> np.ndarray:
    """Objects as points, coloured by the level that training gives them to.

    Crosses are squares and the two other of RPN's ratios; lines divide the levels.

    Args:
        objects: of a data set, in pixels of the network's input.
        settings: of the anchors.
        title: of the plot.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there are no objects.
    """
    count = len(objects.boxes)
    if not count:
        raise ValueError("there are no objects whose shapes could be plotted")
    chosen = torch.arange(count)
    if count > MAX_POINTS:
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(count, generator=generator)[:MAX_POINTS]
    sizes = objects.sizes[chosen].numpy()
    levels = settings.box_levels(objects.boxes)
    squares = np.array(squares_of(settings))
    low = min(sizes.min(), squares[0] / 2) / 1.2
    high = max(sizes.max(), squares[-1] * 2) * 1.2

    figure = new_figure(1080, 800)
    axes = figure.add_axes((0.06, 0.075, 0.68, 0.81))
    for i, stride in enumerate(settings.strides):
        part = sizes[(levels[chosen] == i).numpy()]
        axes.scatter(
            part[:, 0],
            part[:, 1],
            s=12,
            color=color_of(i),
            alpha=0.75,
            linewidths=0.3,
            edgecolors="0.25",
            label=f"stride {stride}: {number_of(int((levels == i).sum()), 'object')}",
        )
    # Width times height is the same along the border of two levels, a line in this plot.
    for square in squares * 2**0.5:
        if square != squares[-1] * 2**0.5:
            axes.plot([low, high], [square**2 / low, square**2 / high], color="0.6", linewidth=0.9)
    for elongation in (3, 6):
        for ratio in (elongation, 1 / elongation):
            axes.plot(
                [low, high], [low / ratio, high / ratio], color="0.6", linewidth=0.9, linestyle=":"
            )
            x, y = (high, high / ratio) if ratio > 1 else (high * ratio, high)
            axes.annotate(
                f"{elongation}:1" if ratio > 1 else f"1:{elongation}",
                (x, y),
                xytext=(-4, 0) if ratio > 1 else (0, -4),
                textcoords="offset points",
                ha="right",
                va="bottom" if ratio > 1 else "top",
                fontsize=10,
                color="0.35",
            )
    root = np.array(RPN_RATIOS)[:, None] ** 0.5
    others = np.array(RPN_RATIOS) != 1
    axes.scatter(
        (squares / root)[others].flatten(),
        (squares * root)[others].flatten(),
        s=70,
        marker="x",
        linewidths=1.6,
        color=ANCHOR_COLOR,
        zorder=4,
        label="RPN's other two ratios",
    )
    axes.scatter(
        squares,
        squares,
        s=90,
        marker="s",
        facecolors="none",
        linewidths=2,
        edgecolors=ANCHOR_COLOR,
        zorder=4,
        label=f"squares ({settings.base_scale:g} strides)",
    )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=2, numticks=16))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("width (pixels of the network's input)", fontsize=12)
    axes.set_ylabel("height (pixels of the network's input)", fontsize=12)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    axes.legend(
        fontsize=11,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        borderaxespad=0,
        labelspacing=0.8,
        handletextpad=0.4,
    )
    figure.text(0.06, 0.955, title or "Shapes of objects", fontsize=14, parse_math=False)
    note = f"{count} objects" + (f", {MAX_POINTS} of them drawn" if count > MAX_POINTS else "")
    note += "; each belongs to the level whose square is nearest to its size"
    figure.text(0.06, 0.92, note, fontsize=11, color="0.3")
    return figure_image(figure)
