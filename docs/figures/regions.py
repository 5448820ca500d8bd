"""Centre, ignored and outside cells of a box, on its level and the neighbouring ones."""

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from panel import GREEN, INK, ORANGE, add_box, add_legend, new_panel

from ga_detectron2.modeling.anchors import make_cell_grid
from ga_detectron2.modeling.targets import GroundTruth, box_levels, location_targets

# As in configs/Base-GARPN.yaml.
BASE_SCALE, CENTER_RATIO, IGNORE_RATIO = 8, 0.2, 0.5
STRIDES = (4, 8, 16, 32, 64)
SIZE = 320
BOX = [50.0, 70.0, 270.0, 230.0]
OVERLAPPING = [[20.0, 90.0, 240.0, 250.0], [90.0, 40.0, 270.0, 250.0]]
COLORS = {"centre": GREEN, "ignored": ORANGE, "outside": "#E4E4E4"}


def draw() -> dict[str, Figure]:
    """Figures by name."""
    own = int(box_levels(torch.tensor(BOX), len(STRIDES), STRIDES[0], BASE_SCALE))
    return {
        "regions_below": _level([BOX], own - 1, f"Stride {STRIDES[own - 1]}: one level below"),
        "regions_own": _level([BOX], own, f"Stride {STRIDES[own]}: the box's own level"),
        "regions_above": _level([BOX], own + 1, f"Stride {STRIDES[own + 1]}: one level above"),
        "regions_overlap": _level(OVERLAPPING, own, f"Stride {STRIDES[own]}: two boxes overlap"),
    }


def cell_kinds(boxes: list[list[float]], level: int) -> torch.Tensor:
    """(Hi, Wi) map of 2 (centre), 1 (ignored) or 0 (outside), from the package's targets."""
    sizes = tuple((SIZE // s + 1, SIZE // s + 1) for s in STRIDES)
    grid = make_cell_grid(sizes, STRIDES, torch.device("cpu"))
    ground_truth = GroundTruth(
        torch.tensor([boxes]),
        torch.zeros(1, len(boxes), dtype=torch.int64),
        torch.ones(1, len(boxes), dtype=torch.bool),
    )
    found = location_targets(grid, ground_truth, BASE_SCALE, CENTER_RATIO, IGNORE_RATIO)
    targets, weights = (grid.split_levels(x)[level][0] for x in found)
    kinds = torch.where(weights == 0, 1, 0)
    return torch.where(targets == 1, 2, kinds)


def _level(boxes: list[list[float]], level: int, title: str) -> Figure:
    stride = STRIDES[level]
    figure, axes = new_panel(title, (-16, 336), (-16, 336))
    kinds = cell_kinds(boxes, level)
    # Each cell is drawn as a square of one stride around its centre.
    edges = [(i - 0.5) * stride for i in range(len(kinds) + 1)]
    colors = ListedColormap([COLORS[name] for name in ("outside", "ignored", "centre")])
    axes.pcolormesh(
        edges, edges, kinds.numpy(), cmap=colors, vmin=0, vmax=2, edgecolors="white", linewidth=1.5
    )
    for box in boxes:
        add_box(axes, box, INK, linewidth=2)
    counts = [int((kinds == k).sum()) for k in (2, 1)]
    add_legend(
        figure,
        [
            Patch(color=COLORS["centre"], label=f"centre ({counts[0]})"),
            Patch(color=COLORS["ignored"], label=f"ignored ({counts[1]})"),
            Patch(color=COLORS["outside"], label="outside"),
            Patch(fill=False, edgecolor=INK, linewidth=2, label="object"),
        ],
    )
    return figure
