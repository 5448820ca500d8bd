"""Sampling positions of feature adaption's 3x3 kernel."""

import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from panel import BLUE, DEEP_BLUE, GREEN, INK, ORANGE, RED, add_box, add_legend, new_panel

from ga_detectron2.modeling.anchors import make_cell_grid, make_guided_anchors
from ga_detectron2.modeling.feature_adaption import TAPS, FeatureAdaption, to_rows

GROUPS = 4
GRID, CELL = 21, 10  # a map of 21 x 21 cells, the one in the middle
BASE_SCALE = 4  # as in configs/small/ga_rpn_R_18.yaml, with shape weights of 1
SHAPES = {"tall": (-0.7, 0.7), "wide": (0.7, -0.7)}
LEARNED = Path(__file__).with_name("learned_offsets.json")


def draw() -> dict[str, Figure]:
    """Figures by name."""
    learned = torch.tensor(json.loads(LEARNED.read_text())["weight"])
    return {
        "taps_plain": _picture("An ordinary 3×3 convolution", torch.zeros_like(learned), "tall", 1),
        "taps_by_hand": _picture("Offsets set by hand", _by_hand(), "tall", 1),
        "taps_learned_tall": _picture(
            "After 600 iterations, a tall anchor", learned, "tall", GROUPS
        ),
        "taps_learned_wide": _picture(
            "After 600 iterations, a wide anchor", learned, "wide", GROUPS
        ),
    }


def tap_positions(weight: torch.Tensor, deltas: tuple[float, float]) -> torch.Tensor:
    """(groups, 9, 2) sampling positions (x, y), in cells, of feature adaption at the middle cell.

    The channels of the input map hold the x and y of its cells, so gathered values are positions.

    Args:
        weight: (groups * 18, 2) weight of the offset convolution.
        deltas: shape outputs (dw, dh) of the cell.
    """
    adaption = FeatureAdaption(2 * GROUPS, 2 * GROUPS, GROUPS)
    with torch.no_grad():
        adaption.offset.weight.copy_(weight[..., None, None])
        steps = torch.arange(GRID, dtype=torch.float32)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        features = to_rows(torch.stack([x, y] * GROUPS)[None])
        cell = torch.tensor([CELL * GRID + CELL])
        taps = adaption.gather_taps(features, cell, torch.tensor([deltas]))
    return taps.unflatten(1, (GROUPS, TAPS, 2))[0]


def _by_hand() -> torch.Tensor:
    """Offsets that stretch the kernel in x with dw and in y with dh, alike in all groups."""
    weight = torch.zeros(GROUPS, TAPS, 2, 2)  # (group, tap, dy or dx, dw or dh)
    for tap in range(TAPS):
        row, column = divmod(tap, 3)
        weight[:, tap, 0, 1] = row - 1
        weight[:, tap, 1, 0] = column - 1
    return weight.flatten(0, 2)


def _picture(title: str, weight: torch.Tensor, shape: str, groups: int) -> Figure:
    deltas = SHAPES[shape]
    figure, axes = new_panel(title, (CELL - 5.5, CELL + 5.5), (CELL - 5.5, CELL + 5.5), "cells")
    grid = make_cell_grid(((GRID, GRID),), (1,), torch.device("cpu"))
    cell = CELL * GRID + CELL
    anchor = make_guided_anchors(
        grid.centers[cell], grid.stride[cell], torch.tensor(deltas), BASE_SCALE, (1.0, 1.0)
    )
    axes.scatter(*grid.centers.T, s=5, color="#CCCCCC")
    add_box(axes, anchor, BLUE, fill=True, alpha=0.25, linewidth=0)
    positions = tap_positions(weight, deltas)[:groups]
    for color, marker, taps in zip(
        (RED, DEEP_BLUE, GREEN, ORANGE), "os^D", positions, strict=False
    ):
        axes.scatter(
            *taps.T, s=34, color=color, marker=marker, edgecolors="white", linewidths=0.6, zorder=4
        )
    axes.plot(CELL, CELL, "+", color=INK, markersize=11, zorder=5)
    what = "samples" if groups == 1 else f"samples of {groups} groups"
    add_legend(
        figure,
        [
            Line2D([], [], marker="o", linestyle="", markersize=3, color="#BBBBBB", label="cells"),
            Line2D([], [], marker="o", linestyle="", markersize=6, color=RED, label=what),
            Patch(color=BLUE, alpha=0.25, linewidth=0, label="guided anchor"),
        ],
    )
    return figure
