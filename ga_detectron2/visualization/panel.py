"""Everything about one image side by side, and an overview of many images."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from .boxes import (
    MAX_ANCHORS,
    MAX_OVERLAP,
    best_predictions,
    draw_anchor_matches,
    draw_ground_truth,
    draw_guided_anchors,
    draw_predictions,
    select_anchors,
)
from .maps import (
    ASPECT_COLORS,
    ASPECT_NORM,
    OPACITY,
    PROBABILITY_COLORS,
    ImageAnchors,
    draw_location,
    draw_shape,
    probability_limit,
)
from .style import DPI, PAD, color_of, count, figure_image, new_figure, resize

TILE_NAMES = (
    "image",
    "ground_truth",
    "location",
    "anchors",
    "shape",
    "proposals",
    "detections",
    "levels",
)
"""What a panel can show. "levels" is the location probability of each level by itself."""
TILE_SIDE = 640
"""Pixels of the longer side of a tile's picture."""
SMALL_SIDE = 320
"""Most pixels of the height of a small picture."""
LEGEND_SIZE = 9
"""Points of the text below a picture."""
LEGEND_ENTRY = 120
"""Pixels of the width of an entry of a legend."""
BAR = 12
"""Pixels of the height of a colour bar."""
LINE, CHARACTER = 1.3 * DPI / 72, 0.56 * DPI / 72
"""Pixels of a line's height and a character's width, about, for each point of the font size."""


@dataclass(frozen=True)
class ColorBar:
    """A colour scale under a picture."""

    colors: Colormap
    norm: Normalize
    label: str
    ticks: dict[float, str]
    """Values and their names."""


@dataclass(frozen=True)
class Tile:
    """A picture of a panel with its explanation."""

    name: str
    title: str
    image: np.ndarray
    legend: tuple[tuple[Any, str], ...] = ()
    """Colours and what they stand for."""
    color_bar: ColorBar | None = None
    small: bool = False
    """Whether it goes into the row of small pictures at the bottom."""


def make_panel(image: np.ndarray, *, title: str = "", **what: Any) -> np.ndarray:
    """One picture with everything about an image: :func:`make_tiles`, composed.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    return compose_panel(make_tiles(image, **what), title)


def make_tiles(
    image: np.ndarray,
    *,
    anchors: ImageAnchors | None = None,
    ground_truth: Instances | None = None,
    proposals: Instances | None = None,
    detections: Instances | None = None,
    metadata: Any = None,
    show: Sequence[str] = TILE_NAMES[1:],
    threshold: float = 0.01,
    max_anchors: int | None = MAX_ANCHORS,
    max_proposals: int | None = 10,
    score_thresh: float = 0.5,
    side: int = TILE_SIDE,
) -> list[Tile]:
    """The pictures of a panel in the order of ``show``; those of what is not given are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        anchors: see :func:`.anchors_of_image`.
        ground_truth: ``gt_boxes`` and ``gt_classes``, in pixels of ``image`` like the next two.
        proposals: ``proposal_boxes`` and ``objectness_logits``.
        detections: ``pred_boxes``, ``scores`` and ``pred_classes``.
        metadata: detectron2's, for the names of the classes.
        show: some of ``TILE_NAMES``.
        threshold: location probability from which on cells are kept.
        max_anchors, max_proposals: how many of the best to draw. Of guided anchors that overlap by
            an IoU above ``MAX_OVERLAP`` only the likeliest is drawn.
        score_thresh: minimum score of detections.
        side: pixels of the longer side of a picture.

    Raises:
        ValueError: a name in ``show`` is unknown.
    """
    for name in show:
        if name not in TILE_NAMES:
            raise ValueError(f"a panel cannot show '{name}', only {', '.join(TILE_NAMES)}")
    scale = side / max(image.shape[:2])
    branches = _Branches(image, anchors, threshold, scale) if anchors is not None else None
    tiles: list[Tile] = []
    for name in show:
        if name == "image":
            text = f"Image, {image.shape[1]}×{image.shape[0]} pixels"
            tiles.append(Tile(name, text, resize(image, scale)))
        elif name == "ground_truth" and ground_truth is not None:
            drawn = draw_ground_truth(image, ground_truth, metadata, scale=scale)
            text = f"Ground truth: {count(len(ground_truth), 'object')}"
            tiles.append(Tile(name, text, drawn))
        elif name == "proposals" and proposals is not None:
            best = best_predictions(proposals, 0, max_proposals)
            drawn = draw_predictions(image, best, scale=scale)
            text = f"Proposals: best {len(best)} of {len(proposals)}"
            tiles.append(Tile(name, text, drawn))
        elif name == "detections" and detections is not None:
            best = best_predictions(detections, score_thresh)
            drawn = draw_predictions(image, best, metadata, scale=scale)
            text = f"Detections: {len(best)} of score ≥ {score_thresh:.0%} (of {len(detections)})"
            tiles.append(Tile(name, text, drawn))
        elif name == "location" and branches is not None:
            tiles.append(branches.location())
        elif name == "anchors" and branches is not None:
            tiles.append(branches.boxes(max_anchors))
        elif name == "shape" and branches is not None:
            tiles.append(branches.shape())
        elif name == "levels" and branches is not None:
            tiles += branches.levels()
    return tiles


class _Branches:
    """Tiles of the location and shape branches."""

    def __init__(
        self, image: np.ndarray, anchors: ImageAnchors, threshold: float, scale: float
    ) -> None:
        self.image, self.anchors, self.threshold, self.scale = image, anchors, threshold, scale
        self.num_kept = int((anchors.probability >= threshold).sum())
        self.highest = float(anchors.probability.max())
        self.vmax = probability_limit(self.highest)

    def location(self) -> Tile:
        anchors, vmax = self.anchors, self.vmax
        label = (
            f"probability (highest: {self.highest:.2g}); {self.num_kept} of "
            f"{len(anchors.probability)} cells pass the filter at {self.threshold:g}"
        )
        ticks = {x: f"{x:g}" for x in np.linspace(0, vmax, 5)}
        return Tile(
            "location",
            f"Location probability, highest of {len(anchors.strides)} levels, 0 to {vmax:g}",
            draw_location(self.image, anchors, vmax=vmax, scale=self.scale),
            color_bar=ColorBar(PROBABILITY_COLORS, Normalize(0, vmax), label, ticks),
        )

    def levels(self) -> Iterator[Tile]:
        maps = self.anchors.level_maps(self.anchors.probability)
        for i, (stride, values) in enumerate(zip(self.anchors.strides, maps, strict=True)):
            kept = int((values >= self.threshold).sum())
            title = f"stride {stride}: max {values.max():.2g}, {kept}/{values.size} pass"
            drawn = draw_location(
                self.image, self.anchors, level=i, vmax=self.vmax, scale=self.scale
            )
            yield Tile("levels", title, drawn, small=True)

    def boxes(self, max_anchors: int | None) -> Tile:
        options: dict[str, Any] = {"threshold": self.threshold, "max_anchors": max_anchors}
        selected = select_anchors(self.anchors, **options, max_overlap=MAX_OVERLAP)
        return Tile(
            "anchors",
            f"Guided anchors: likeliest {len(selected)} of {self.num_kept} that pass, "
            f"pairwise IoU ≤ {MAX_OVERLAP:g}",
            draw_guided_anchors(self.image, self.anchors, **options, scale=self.scale),
            legend=strides_legend(self.anchors.strides, self.anchors.level[selected]),
        )

    def shape(self) -> Tile:
        label = "width : height at the likeliest level; grey: no cell passes the filter"
        ticks = {2.0**i: f"{2 ** max(i, 0)}:{2 ** max(-i, 0)}" for i in range(-3, 4)}
        return Tile(
            "shape",
            "Shape of guided anchors",
            draw_shape(self.image, self.anchors, threshold=self.threshold, scale=self.scale),
            color_bar=ColorBar(ASPECT_COLORS, ASPECT_NORM, label, ticks),
        )


def make_match_tiles(
    image: np.ndarray,
    ground_truth: Instances,
    anchors: Tensor | None,
    input_size: tuple[int, int],
    proposals: Instances | None,
    label: str,
    color: int,
) -> list[Tile]:
    """The best anchor of each object, and the best proposals, for a comparison of models.

    Args:
        image: (H, W, 3) uint8 RGB.
        ground_truth: ``gt_boxes`` in pixels of ``image``.
        anchors: (R, 4) in pixels of the network's input.
        input_size: (height, width) of the image as the network saw it, before padding.
        proposals: in pixels of ``image``; None from a one-stage detector.
        label: kind of the anchors.
        color: number of the anchors' colour.
    """
    scale = TILE_SIDE / max(image.shape[:2])
    tiles = []
    if anchors is not None and len(anchors) and len(ground_truth):
        anchors = anchors.cpu() * torch.tensor(
            [image.shape[1] / input_size[1], image.shape[0] / input_size[0]] * 2
        )
        iou, best = pairwise_iou(ground_truth.gt_boxes, Boxes(anchors)).max(dim=1)
        drawn = draw_anchor_matches(
            image,
            ground_truth.gt_boxes.tensor.numpy(),
            anchors[best].numpy(),
            iou.tolist(),
            [color] * len(best),
            scale,
        )
        text = f"best of {len(anchors)} for each object (dashed), mean IoU {iou.mean():.2f}"
        tiles.append(Tile("anchors", f"{label}: {text}", drawn))
    if proposals is not None:
        number = min(2 * max(5, len(ground_truth)), len(proposals))
        drawn = draw_predictions(image, proposals, max_boxes=number, scale=scale)
        tiles.append(Tile("proposals", f"{label}: best {number} proposals", drawn))
    return tiles


def strides_legend(strides: Sequence[int], levels: Any) -> tuple[tuple[Any, str], ...]:
    """Legend of boxes coloured by level, with the number of boxes on each.

    Args:
        strides: of the L levels.
        levels: (k,) of the boxes, an array or a tensor.
    """
    return tuple(
        (color_of(i), f"stride {stride} ({int((levels == i).sum())})")
        for i, stride in enumerate(strides)
    )


def compose_panel(tiles: Sequence[Tile], title: str = "") -> np.ndarray:
    """Tiles in rows, the small ones in a row at the bottom.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: there are no tiles.
    """
    return figure_image(panel_figure(tiles, title))


def make_overview(
    rows: Sequence[Sequence[Tile]], names: Sequence[str], title: str = ""
) -> np.ndarray:
    """A sheet with a row of tiles for each image; small tiles are left out.

    Args:
        rows: tiles of each image, the same kinds for all.
        names: of the images.
        title: of the sheet.

    Raises:
        ValueError: there are no tiles.
    """
    tiles: list[Tile] = []
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        large = [replace(tile, color_bar=None) for tile in row if not tile.small]
        large[0] = replace(large[0], title=f"{name}\n{large[0].title}")
        for tile in large:
            # One legend for all rows, without the numbers of boxes, which are those of one image.
            entries = [(color, text.partition(" (")[0]) for color, text in tile.legend]
            tiles.append(replace(tile, legend=tuple(entries) if i == len(rows) - 1 else ()))
    columns = len(tiles) // max(1, len(rows))
    return figure_image(panel_figure(tiles, title, columns, font_size=10))


def panel_figure(
    tiles: Sequence[Tile], title: str = "", columns: int | None = None, font_size: float = 12
) -> Figure:
    """The figure of :func:`compose_panel`."""
    if not tiles:
        raise ValueError("there is nothing to show: no tile was made")
    large = [x for x in tiles if not x.small]
    small = [x for x in tiles if x.small]
    # Narrow pictures still need room for their titles.
    width = max(26 * font_size, *(tile.image.shape[1] for tile in tiles))
    if columns is None:
        limit = (3 if len(large) > 4 else 2) * TILE_SIDE
        columns = max(1, min(len(large or small), int(limit / width)))
    rows = [
        _Row(large[i : i + columns], columns, width, TILE_SIDE, font_size)
        for i in range(0, len(large), columns)
    ]
    if small:
        small_width = columns * (width + 2 * PAD) / len(small) - 2 * PAD
        rows.append(_Row(small, len(small), small_width, SMALL_SIDE, min(9, font_size)))

    # Legends and colour bars take no part in the layout, so that pictures in a row stay aligned:
    # empty rows of the mosaic make room for them.
    mosaic: list[Any] = []
    heights: list[float] = []
    for number, row in enumerate(rows):
        mosaic += [[[[f"{number}.{i}" for i in range(row.columns)]]], ["."]]
        heights += row.heights
    figure = new_figure(columns * (width + 2 * PAD), sum(heights) + (40 if title else 0))
    empty = {"xticks": [], "yticks": [], "frame_on": False, "anchor": "NW"}
    all_axes: dict[str, Axes] = figure.subplot_mosaic(
        mosaic, height_ratios=heights, subplot_kw=empty
    )
    for number, row in enumerate(rows):
        for i, tile in enumerate(row.tiles):
            row.draw(tile, all_axes[f"{number}.{i}"])
    if title:
        figure.suptitle(title, fontsize=16, x=0.01, ha="left", weight="bold", parse_math=False)
    return figure


@dataclass(frozen=True)
class _Row:
    """Tiles side by side. All sizes are in pixels, but ``font_size``, which is in points."""

    tiles: Sequence[Tile]
    columns: int
    width: float
    """Of a column."""
    side: float
    """Most pixels of the height of a picture."""
    font_size: float

    @property
    def heights(self) -> tuple[float, float]:
        """Of the pictures with their titles, and of the legends and colour bars below."""
        picture, title_lines, lines = 0.0, 1, 0
        for tile in self.tiles:
            height, width = tile.image.shape[:2]
            picture = max(picture, min(height, height * self.width / width, self.side))
            title_lines = max(title_lines, 1 + self.wrap(tile.title, self.font_size).count("\n"))
            lines = max(lines, -(-len(tile.legend) // self.legend_columns))
            if tile.color_bar is not None:  # with its ticks and label
                lines = max(lines, 3 + self.wrap(tile.color_bar.label, LEGEND_SIZE).count("\n"))
        title = title_lines * LINE * self.font_size + PAD
        return title + picture + 2 * PAD, lines * LINE * LEGEND_SIZE + PAD

    @property
    def legend_columns(self) -> int:
        """Entries of a legend beside each other."""
        return max(1, int(self.width / LEGEND_ENTRY))

    def wrap(self, text: str, font_size: float) -> str:
        """Text broken into lines that are no wider than a column."""
        characters = max(10, int(self.width / (CHARACTER * font_size)))
        return "\n".join(textwrap.fill(line, characters) for line in text.split("\n"))

    def draw(self, tile: Tile, axes: Axes) -> None:
        """Draw a tile's picture with its title, legend and colour bar."""
        axes.imshow(tile.image)
        text = self.wrap(tile.title, self.font_size)
        axes.set_title(text, fontsize=self.font_size, loc="left", parse_math=False)
        if tile.legend:
            handles = [
                Line2D([], [], color=color, linewidth=4, label=text) for color, text in tile.legend
            ]
            axes.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(0, 0),
                ncols=self.legend_columns,
                frameon=False,
                fontsize=LEGEND_SIZE,
                borderpad=0.2,
                borderaxespad=0.2,
                handlelength=1,
                columnspacing=1,
            ).set_in_layout(False)
        if tile.color_bar is not None:
            self.draw_color_bar(tile, tile.color_bar, axes)

    def draw_color_bar(self, tile: Tile, bar: ColorBar, axes: Axes) -> None:
        # As opaque over a mean grey as in the picture, so that colours are the same.
        shades = bar.colors(np.linspace(0, 1, 256))
        shades[:, :3] = OPACITY * shades[:, :3] + (1 - OPACITY) * 0.5
        height, width = tile.image.shape[:2]
        below = -1.5 * BAR / height
        length = self.width / width
        # Ends of the bar are inside the column, as are the labels at them.
        place = axes.inset_axes((0.03 * length, below, 0.94 * length, BAR / height))
        place.set_in_layout(False)
        drawn = axes.figure.colorbar(
            ScalarMappable(bar.norm, ListedColormap(shades)), cax=place, orientation="horizontal"
        )
        drawn.set_ticks(list(bar.ticks), labels=list(bar.ticks.values()), fontsize=LEGEND_SIZE)
        drawn.ax.minorticks_off()
        drawn.set_label(self.wrap(bar.label, LEGEND_SIZE), size=LEGEND_SIZE, labelpad=2)
