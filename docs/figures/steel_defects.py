"""Draw the plots of docs/steel_defects.md from the results in benchmarks/results.

Run it as ``python docs/figures/steel_defects.py [FILE]``.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ga_detectron2.visualization.plots import LINE_COLORS, MARKERS
from ga_detectron2.visualization.style import figure_image, new_figure, save_image, tidy_axes

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "benchmarks" / "results" / "steel_defects_2026-11-27.json"
PICTURE = PROJECT / "docs" / "images" / "steel_defects.webp"
PROPOSALS = ("GA-RPN", "RPN, 3 anchors", "RPN, 9 anchors")
DETECTORS = ("GA-Faster R-CNN", "Faster R-CNN")

Rows = list[dict[str, Any]]


def draw(results: Rows, filters: Rows) -> Figure:
    """Recall, AP by aspect ratio, and what the location filter keeps."""
    figure = new_figure(1500, 460)
    recall, ratios, kept = figure.subplots(1, 3)
    draw_recall(recall, results)
    draw_ratios(ratios, results)
    draw_filter(kept, filters)
    return figure


def of_model(results: Rows, name: str, prefix: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over the seeds of the scores that begin with ``prefix``."""
    rows = [r for r in results if r["model"] == name]
    values = {k: [r[k] for r in rows] for k in rows[0] if k.startswith(prefix)}
    return {
        k.removeprefix(prefix): (statistics.mean(v), statistics.stdev(v)) for k, v in values.items()
    }


def draw_recall(axes: Axes, results: Rows) -> None:
    """Average recall against the number of proposals."""
    for i, name in enumerate(PROPOSALS):
        scores = {k: v for k, v in of_model(results, name, "AR@").items() if k.isdigit()}
        mean, deviation = np.array(list(scores.values())).T
        style: dict[str, Any] = {"color": LINE_COLORS[i], "marker": MARKERS[i], "capsize": 2}
        axes.errorbar([int(k) for k in scores], mean, deviation, label=name, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0)
    axes.legend(frameon=False, loc="lower right")
    tidy_axes(axes, "proposals per image", "average recall (%)")


def draw_ratios(axes: Axes, results: Rows) -> None:
    """AP by aspect ratio of the object."""
    for i, name in enumerate(DETECTORS):
        scores = {k: v for k, v in of_model(results, name, "AP ").items() if ":" in k}
        mean, deviation = np.array(list(scores.values())).T
        style: dict[str, Any] = {"color": LINE_COLORS[i], "width": 0.38, "capsize": 2}
        axes.bar(np.arange(len(mean)) + 0.4 * i, mean, yerr=deviation, label=name, **style)
        axes.set_xticks(np.arange(len(mean)) + 0.2, list(scores))
    axes.legend(frameon=False)
    tidy_axes(axes, "longer to shorter side of the defect, from", "AP")


def draw_filter(axes: Axes, filters: Rows) -> None:
    """Cells, centres and recall that thresholds of the location filter keep."""
    thresholds = [f"{row['threshold']:g}" for row in filters]
    for i, (key, label) in enumerate(
        (
            ("center_recall", "centres of defects"),
            ("recall", "AR@100, relative"),
            ("kept_share", "cells"),
        )
    ):
        scale = 100 / filters[0]["recall"] if key == "recall" else 100
        values = [scale * row[key] for row in filters]
        axes.plot(thresholds, values, color=LINE_COLORS[i], marker=MARKERS[i], label=label)
    axes.legend(frameon=False)
    tidy_axes(axes, "LOC_FILTER_THRESH", "kept by GA-RPN (%)")


def main() -> None:
    """Save the picture."""
    contents = json.loads(RESULTS.read_text())
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    save_image(figure_image(draw(contents["results"], contents["filters"])), str(path))
    print(f"steel_defects.py: the plots are in {path}")


if __name__ == "__main__":
    main()
