"""Shared style of the figures: one panel each, readable on a phone."""

from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ga_detectron2.visualization.style import COLORS

WIDTH, HEIGHT = 3.9, 4.2  # inches at 100 dpi: two fit side by side on the site
INK, PALE = "#333333", "#BBBBBB"
ORANGE, BLUE, GREEN, _YELLOW, RED, PINK, DEEP_BLUE = COLORS


def new_panel(
    title: str, x_limits: tuple[float, float], y_limits: tuple[float, float], unit: str = "pixels"
) -> tuple[Figure, Axes]:
    """An empty panel with equal scales whose y axis points down, as in an image."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=x_limits, ylim=y_limits[::-1], aspect="equal")
    axes.set_title(title, fontsize=12, color=INK)
    axes.set_xlabel(f"x in {unit}", fontsize=10, color=INK)
    axes.set_ylabel(f"y in {unit}", fontsize=10, color=INK, labelpad=1)
    axes.tick_params(labelsize=9, colors=INK)
    for side in axes.spines.values():
        side.set_color(PALE)
    return figure, axes


def add_box(axes: Axes, box: Tensor | Sequence[float], color: str, **style: object) -> None:
    """Draw a box (x1, y1, x2, y2); an outline unless ``fill`` is True."""
    x1, y1, x2, y2 = (float(v) for v in box)
    settings = {"fill": False, "linewidth": 1.8, **style}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, color=color, **settings))


def add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Add a legend in one row below the axes."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        handlelength=1,
        handletextpad=0.5,
        columnspacing=0.9,
    )


def explain(axes: Axes, text: str) -> None:
    """Write a note in the lower left corner."""
    axes.text(
        0.02,
        0.02,
        text,
        transform=axes.transAxes,
        fontsize=10,
        color=INK,
        va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        zorder=9,
    )
