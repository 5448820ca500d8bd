"""Plots of results: shapes learned, recall against number of proposals, training curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .shape_errors import BoxShapes
from .style import figure_image, line_color, new_figure, tidy_axes

__all__ = ["RecallCurve", "plot_box_shapes", "plot_recall_curves", "plot_training_curves"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""With the colours, so that curves can be told apart in a grey print too."""
SMOOTHED_FROM = 100
"""Points from which on a training curve is drawn pale and its running mean over it."""
RUNNING_MEAN = 11
"""Points that a running mean is over, half of them before and half of them after."""


class RecallCurve(NamedTuple):
    """Recall against number of proposals of one model.

    Attributes:
        name: of the model.
        limits: numbers of best proposals an image, rising.
        recall: average recall in percent at each.
    """

    name: str
    limits: Sequence[float]
    recall: Sequence[float]


def plot_recall_curves(curves: Sequence[RecallCurve], title: str = "") -> np.ndarray:
    """Average recall against the number of proposals an image, of several models.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there are no curves, or one has no points.
    """
    if not curves or any(not len(curve.limits) for curve in curves):
        raise ValueError("recall is plotted of one or more models with one or more points each")
    figure = new_figure(900, 620)
    axes = figure.add_axes((0.09, 0.11, 0.87, 0.80))
    for i, (name, limits, recall) in enumerate(curves):
        color = line_color(i)
        axes.plot(
            limits, recall, color=color, marker=MARKERS[i % len(MARKERS)], label=name, linewidth=2
        )
    ticks = sorted({limit for curve in curves for limit in curve.limits})
    axes.set_xscale("log")
    if len(ticks) <= 12:
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_ylim(0, min(100, 1.1 * max(max(c.recall) for c in curves)) or 1)
    axes.set_xlabel("proposals an image", fontsize=12)
    axes.set_ylabel("average recall, IoU 0.5 to 0.95 (%)", fontsize=12)
    axes.set_title(title or "Recall of proposals", fontsize=14, loc="left")
    axes.legend(fontsize=12, frameon=False, loc="lower right")
    tidy_axes(axes)
    return figure_image(figure)


def plot_training_curves(
    metrics: Iterable[Mapping[str, Any]], keys: Sequence[str] = (), title: str = ""
) -> np.ndarray:
    """Losses, learning rate and scores against iterations, each on a scale of its own.

    Args:
        metrics: the rows of ``metrics.json``, each with ``iteration``.
        keys: of the rows, to plot these; without them the losses, ``lr``, AP and recall.
        title: of the plot.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the rows have none of the keys.
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in metrics:
        for key, value in row.items():
            if key in keys or (not keys and _is_of_interest(key)):
                iterations, values = series.setdefault(key, ([], []))
                iterations.append(row["iteration"])
                values.append(value if value is not None else math.nan)
    if not series:
        raise ValueError(f"the metrics have none of {', '.join(keys) or 'the usual keys'}")
    order = list(keys) or sorted(series, key=_rank)
    order = [key for key in order if key in series]
    # A single point, as of a score at the end, is no curve.
    points = [key for key in order if len(series[key][0]) == 1]
    if len(points) < len(order):
        order = [key for key in order if key not in points]
        title += "".join(f"\n{key} {series[key][1][0]:.3g}" for key in points)
    columns = min(3, len(order))
    rows = math.ceil(len(order) / columns)
    figure = new_figure(60 + 400 * columns, 50 + 260 * rows + 22 * title.count("\n"))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, ha="left", parse_math=False)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in all_axes[len(order) :]:
        axes.set_axis_off()
    last = max(x[-1] for x, _ in series.values())
    for axes, key in zip(all_axes, order, strict=False):
        x, y = (np.asarray(values, dtype=float) for values in series[key])
        if len(x) < SMOOTHED_FROM or key == "lr":
            axes.plot(x, y, color=line_color(0), marker="o" if len(x) < 50 else None, markersize=4)
        else:
            axes.plot(x, y, color="0.75", linewidth=1)
            axes.plot(x, _running_mean(y), color=line_color(0), linewidth=2)
        axes.set_title(f"{key} (last: {y[-1]:.3g})", fontsize=11, loc="left", parse_math=False)
        axes.set_xlim(0, 1.02 * last or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if np.nanmin(y, initial=0) >= 0:
            axes.set_ylim(bottom=0)
        tidy_axes(axes)
    for axes in all_axes[max(0, len(order) - columns) : len(order)]:
        axes.set_xlabel("iteration", fontsize=11)
    return figure_image(figure)


def plot_box_shapes(shapes: BoxShapes, title: str = "") -> np.ndarray:
    """Width and height of the guided anchor at each object's centre against those of the object.

    Args:
        shapes: of the objects of a data set.
        title: of the plot.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: there are no objects.
    """
    if not len(shapes.truth):
        raise ValueError("there are no objects whose shapes could be plotted")
    figure = new_figure(1200, 640)
    values = np.concatenate([shapes.truth, shapes.guided])
    low, high = values.min() / 1.3, values.max() * 1.3
    for i, name in enumerate(("width", "height")):
        axes = figure.add_axes((0.065 + 0.495 * i, 0.19, 0.42, 0.65))
        axes.plot([low, high], [low, high], color="black", linewidth=1, label="equal to the object")
        axes.scatter(
            shapes.truth[:, i],
            shapes.square,
            s=16,
            marker="x",
            linewidths=0.8,
            color=line_color(1),
            alpha=0.6,
            label=f"square (mean IoU {shapes.square_iou.mean():.2f})",
        )
        axes.scatter(
            shapes.truth[:, i],
            shapes.guided[:, i],
            s=16,
            color=line_color(0),
            alpha=0.6,
            linewidths=0,
            label=f"guided anchor (mean IoU {shapes.guided_iou.mean():.2f})",
        )
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(base=2, numticks=12))
            axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.set_minor_formatter(NullFormatter())
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{name} of the object (pixels)", fontsize=12)
        axes.set_ylabel(f"{name} of the anchor (pixels)", fontsize=12)
        tidy_axes(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=12, frameon=False)
    text = title or "Shapes of guided anchors"
    figure.text(0.065, 0.94, text, fontsize=14, parse_math=False)
    note = (
        f"{len(shapes.truth)} objects, each with the anchor of the cell nearest to its centre on "
        f"the level of its size; pixels of the network's input"
    )
    figure.text(0.065, 0.885, note, fontsize=11, color="0.3")
    return figure_image(figure)


def _is_of_interest(key: str) -> bool:
    if key in ("total_loss", "lr") or key.startswith("loss_"):
        return True
    name = key.rpartition("/")[2]
    if key.startswith("box_proposals/"):  # Recall as detectron2 counts it; as COCO does follows.
        return False
    return key.count("/") == 1 and (name in ("AP", "AP50") or name.startswith("AR@"))


def _rank(key: str) -> tuple[int, str]:
    """The whole loss first, then its parts, the learning rate, and scores."""
    if key == "total_loss":
        return 0, key
    if key.startswith("loss_"):
        return 1, key
    return (2 if key == "lr" else 3), key


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Each value with those up to RUNNING_MEAN // 2 before and after it, so that none lags."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    here, half = np.arange(len(values)), RUNNING_MEAN // 2
    first, last = np.maximum(0, here - half), np.minimum(len(values), here + half + 1)
    return np.asarray((sums[last] - sums[first]) / (last - first))
