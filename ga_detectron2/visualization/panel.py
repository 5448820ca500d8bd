"""Everything about one image side by side, and an overview of many images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

from .anchors import MAX_ANCHORS, MAX_OVERLAP, draw_guided_anchors, select_anchors
from .image_anchors import ImageAnchors, anchors_of_image
from .location import OPACITY, draw_location
from .predictions import best_predictions, draw_ground_truth, draw_predictions
from .shape import ASPECT_COLORS, ASPECT_NORM, draw_shape
from .style import (
    check_image,
    color_of,
    figure_image,
    new_figure,
    probability_colors,
    probability_limit,
    resize,
    size_of,
)

__all__ = ["TILE_NAMES", "Tile", "compose_panel", "make_overview", "make_panel", "make_tiles"]

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

# Lengths in pixels.
TILE_SIDE = 640
SMALL_HEIGHT = 400
MARGIN = 20
TITLE_HEIGHT = 30
FOOTER_HEIGHT = 58
LEGEND_HEIGHT = 30

COLUMN_TITLES = {"location": "Location probability", "anchors": "Guided anchors"}
"""Of an overview, where the name of a tile says too little."""


@dataclass(frozen=True)
class ColorBar:
    """A scale of colours under a picture."""

    colors: Colormap
    norm: Normalize
    label: str
    ticks: tuple[tuple[float, str], ...]
    """Values to name, with their names."""
    mark: float | None = None
    """A value to mark with a line."""


@dataclass(frozen=True)
class Tile:
    """A picture of a panel, with what explains it."""

    name: str
    title: str
    image: np.ndarray
    legend: tuple[tuple[Any, str], ...] = ()
    """Colours and what they stand for."""
    color_bar: ColorBar | None = None
    small: bool = False
    """Whether it goes into the row of small pictures at the bottom."""


def make_panel(image: np.ndarray, *, title: str = "", **what: Any) -> np.ndarray:
    """One picture with everything about an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        title: of the whole.
        what: as of :func:`make_tiles`.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: there is nothing to show.
    """
    return compose_panel(make_tiles(image, **what), title)


def make_tiles(
    image: np.ndarray,
    *,
    guided: GuidedAnchors | None = None,
    input_size: tuple[int, int] | None = None,
    index: int = 0,
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
    """The pictures of a panel, in the order of ``show``; what is not given is left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        guided: of the batch with this image; ``input_size`` then is needed too.
        input_size: (height, width) of this image as the network saw it, before padding.
        index: of the image in the batch.
        ground_truth: ``gt_boxes`` and ``gt_classes``, in pixels of ``image`` like the next two.
        proposals: ``proposal_boxes`` and ``objectness_logits``.
        detections: ``pred_boxes``, ``scores`` and ``pred_classes``.
        metadata: of detectron2, for the names of classes.
        show: some of ``TILE_NAMES``.
        threshold: location probability from which on cells are kept.
        max_anchors, max_proposals: how many of them are drawn, the best ones. Of guided anchors
            that overlap by an IoU above ``MAX_OVERLAP`` only the likeliest is.
        score_thresh: detections of a lower score are not drawn.
        side: pixels of the longer side of a picture.

    Raises:
        ValueError: a name in ``show`` is unknown, or ``guided`` does not fit the image.
    """
    check_image(image)
    for name in show:
        if name not in TILE_NAMES:
            raise ValueError(f"a panel cannot show '{name}', only {', '.join(TILE_NAMES)}")
    scale = side / max(image.shape[:2])
    tiles: list[Tile] = []
    branches = None
    if guided is not None:
        if input_size is None:
            raise ValueError(
                "input_size is missing: guided anchors need the (height, width) of the image as "
                "the network saw it"
            )
        branches = _Branches(image, guided, input_size, index, threshold, scale)
    for name in show:
        if name == "image":
            tiles.append(
                Tile(name, f"Image, {image.shape[1]}×{image.shape[0]} pixels", resize(image, scale))
            )
        elif name == "ground_truth" and ground_truth is not None:
            drawn = draw_ground_truth(image, ground_truth, metadata, scale=scale)
            number = len(ground_truth)
            text = f"Ground truth: {number} object" + ("" if number == 1 else "s")
            tiles.append(Tile(name, text, drawn))
        elif name == "proposals" and proposals is not None:
            drawn = draw_predictions(image, proposals, max_boxes=max_proposals, scale=scale)
            number = len(best_predictions(proposals, 0, max_proposals))
            text = f"Proposals: best {number} of {len(proposals)}"
            tiles.append(Tile(name, text, drawn))
        elif name == "detections" and detections is not None:
            drawn = draw_predictions(
                image, detections, metadata, score_thresh=score_thresh, scale=scale
            )
            number = len(best_predictions(detections, score_thresh))
            text = f"Detections: {number} of score ≥ {score_thresh:.0%} (of {len(detections)})"
            tiles.append(Tile(name, text, drawn))
        elif branches is not None and name == "location":
            tiles.append(branches.location())
        elif branches is not None and name == "anchors":
            tiles.append(branches.anchors(max_anchors))
        elif branches is not None and name == "shape":
            tiles.append(branches.shape())
        elif branches is not None and name == "levels":
            tiles.extend(branches.levels())
    return tiles


class _Branches:
    """Pictures of the location and shape branches for one image."""

    def __init__(
        self,
        image: np.ndarray,
        guided: GuidedAnchors,
        input_size: tuple[int, int],
        index: int,
        threshold: float,
        scale: float,
    ):
        self.image, self.threshold, self.scale = image, threshold, scale
        self.where = (guided, input_size, index)
        self.view: ImageAnchors = anchors_of_image(guided, index, input_size, size_of(image))
        self.highest = float(self.view.probability.max())
        self.vmax = probability_limit(self.highest)

    def location(self) -> Tile:
        selected = select_anchors(self.view, self.threshold)
        bar = ColorBar(
            probability_colors(),
            Normalize(0, self.vmax),
            f"probability, 0 to {self.vmax:g} (highest: {self.highest:.2g}); line: filter at "
            f"{self.threshold:g}, {selected.num_kept} of {selected.num_cells} cells pass",
            ticks=tuple((x, f"{x:g}") for x in np.linspace(0, self.vmax, 5)),
            mark=self.threshold,
        )
        picture = draw_location(self.image, *self.where, vmax=self.vmax, scale=self.scale)
        title = f"Location probability, highest of {len(self.view.sizes)} levels"
        return Tile("location", title, picture, color_bar=bar)

    def levels(self) -> list[Tile]:
        tiles = []
        for level, probability in enumerate(self.view.level_maps(self.view.probability)):
            drawn = draw_location(
                self.image, *self.where, level=level, vmax=self.vmax, scale=self.scale
            )
            kept = int((probability >= self.threshold).sum())
            title = (
                f"stride {self.view.strides[level]}: max {probability.max():.2g}, "
                f"{kept}/{probability.size} pass"
            )
            tiles.append(Tile("levels", title, drawn, small=True))
        return tiles

    def anchors(self, max_anchors: int | None) -> Tile:
        selected = select_anchors(self.view, self.threshold, max_anchors, MAX_OVERLAP)
        drawn = draw_guided_anchors(
            self.image,
            *self.where,
            threshold=self.threshold,
            max_anchors=max_anchors,
            scale=self.scale,
        )
        levels = self.view.level[selected.cells]
        legend = tuple(
            (color_of(i), f"stride {stride} ({(levels == i).sum()})")
            for i, stride in enumerate(self.view.strides)
        )
        title = (
            f"Guided anchors: likeliest {len(selected.cells)} of {selected.num_kept} that pass, "
            f"none alike (IoU ≤ {MAX_OVERLAP:g})"
        )
        return Tile("anchors", title, drawn, legend)

    def shape(self) -> Tile:
        drawn = draw_shape(self.image, *self.where, threshold=self.threshold, scale=self.scale)
        ratios = ((1, 8), (1, 4), (1, 2), (1, 1), (2, 1), (4, 1), (8, 1))
        bar = ColorBar(
            ASPECT_COLORS,
            ASPECT_NORM,
            "width : height at the likeliest level; grey: no cell passes the filter",
            ticks=tuple((w / h, f"{w}:{h}") for w, h in ratios),
        )
        return Tile("shape", "Shape of guided anchors", drawn, color_bar=bar)


def compose_panel(tiles: Sequence[Tile], title: str = "") -> np.ndarray:
    """Tiles in up to three columns, the small ones in a row at the bottom.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: there are no tiles.
    """
    if not tiles:
        raise ValueError("there is nothing to show: no tile was made")
    large = [x for x in tiles if not x.small]
    small = [x for x in tiles if x.small]
    columns = 3 if len(large) > 4 else min(2, len(large)) or 1
    height, width = tiles[0].image.shape[:2]
    column_width = max(width, TILE_SIDE)  # narrow pictures still need room for their words
    total_width = MARGIN + columns * (column_width + MARGIN)
    rows = [large[i : i + columns] for i in range(0, len(large), columns)]
    footers = [
        FOOTER_HEIGHT if any(x.legend or x.color_bar for x in row) else MARGIN for row in rows
    ]
    small_width = (total_width - MARGIN) // max(1, len(small)) - MARGIN
    small_scale = min(small_width / width, SMALL_HEIGHT / height)
    small_height = math.ceil(height * small_scale)
    head = 44 if title else MARGIN // 2
    total_height = head + sum(TITLE_HEIGHT + height + x for x in footers)
    if small:
        total_height += TITLE_HEIGHT + small_height + MARGIN

    page = _Page(total_width, total_height)
    if title:
        page.text(MARGIN, 30, title, 16, weight="bold")
    top = head
    for row, footer in zip(rows, footers, strict=True):
        for i, tile in enumerate(row):
            left = MARGIN + i * (column_width + MARGIN)
            page.text(left, top + 22, tile.title, 13)
            page.picture(left, top + TITLE_HEIGHT, tile.image)
            page.explain(left, top + TITLE_HEIGHT + height, column_width, tile)
        top += TITLE_HEIGHT + height + footer
    for i, tile in enumerate(small):
        left = MARGIN + i * (small_width + MARGIN)
        page.text(left, top + 22, tile.title, 10)
        page.picture(left, top + TITLE_HEIGHT, resize(tile.image, small_scale))
    return figure_image(page.figure)


def make_overview(
    rows: Sequence[Sequence[Tile]], names: Sequence[str] = (), title: str = ""
) -> np.ndarray:
    """A sheet with a row of tiles for each image; small tiles are left out.

    Args:
        rows: tiles of each image, the same ones for all.
        names: of the images, written beside them.
        title: of the sheet.

    Raises:
        ValueError: there are no tiles, or the rows differ.
    """
    kept = [[tile for tile in row if not tile.small] for row in rows]
    if not kept or not kept[0]:
        raise ValueError("there is nothing to show: no tile was made")
    columns = [tile.name for tile in kept[0]]
    if any([tile.name for tile in row] != columns for row in kept):
        raise ValueError(f"each row of an overview must show the same: {', '.join(columns)}")
    cell = max(max(x.image.shape[:2]) for row in kept for x in row)
    heights = [max(x.image.shape[0] for x in row) for row in kept]
    label = 24 if names else 8
    head = 44 if title else MARGIN // 2
    colors = next((tile.legend for tile in kept[0] if tile.legend), ())
    page = _Page(
        MARGIN + len(columns) * (cell + MARGIN // 2),
        head + TITLE_HEIGHT + sum(h + label for h in heights) + (LEGEND_HEIGHT if colors else 0),
    )
    if title:
        page.text(MARGIN, 30, title, 16, weight="bold")
    for j, name in enumerate(columns):
        left = MARGIN + j * (cell + MARGIN // 2)
        text = COLUMN_TITLES.get(name, name.replace("_", " ").capitalize())
        page.text(left, head + 20, text, 13, weight="bold")
    top = head + TITLE_HEIGHT
    for i, row in enumerate(kept):
        for j, tile in enumerate(row):
            page.picture(MARGIN + j * (cell + MARGIN // 2), top, tile.image)
            if names:
                left = MARGIN + j * (cell + MARGIN // 2)
                text = names[i] if j == 0 else _brief(tile)
                page.text(left, top + heights[i] + 15, text, 9, color="#444444")
        top += heights[i] + label
    if colors:
        # Numbers of anchors are those of one image.
        page.legend(MARGIN, top, [(color, text.partition(" (")[0]) for color, text in colors])
    return figure_image(page.figure)


def _brief(tile: Tile) -> str:
    if tile.color_bar is not None and tile.name == "location":
        return f"black 0 to light yellow {tile.color_bar.norm.vmax:g}"
    return tile.title.partition(": ")[2].partition(",")[0]


class _Page:
    """A figure on which things have places in pixels from the upper left corner."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.figure: Figure = new_figure(width, height)

    def text(self, left: float, base: float, text: str, points: float, **style: Any) -> None:
        x, y = left / self.width, 1 - base / self.height
        self.figure.text(x, y, text, fontsize=points, parse_math=False, **style)

    def picture(self, left: int, top: int, image: np.ndarray) -> None:
        # Pixel for pixel: as an image of an axes it would be resampled.
        self.figure.figimage(image, left, self.height - top - image.shape[0])

    def explain(self, left: int, top: int, width: int, tile: Tile) -> None:
        """The legend or colour bar of a tile, below it."""
        if tile.legend:
            self.legend(left, top, tile.legend)
        if tile.color_bar is not None:
            self._color_bar(left, top, min(width, tile.image.shape[1]), tile.color_bar)

    def legend(self, left: int, top: int, entries: Sequence[tuple[Any, str]]) -> None:
        """Colours and what they stand for, in a line."""
        handles = [Line2D([], [], color=color, linewidth=4, label=text) for color, text in entries]
        self.figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(left / self.width, 1 - (top + 6) / self.height),
            ncols=len(handles),
            frameon=False,
            fontsize=10,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.2,
            columnspacing=1.2,
        )

    def _color_bar(self, left: int, top: int, width: int, bar: ColorBar) -> None:
        # Names of the ends are as wide as this to the left and right of them.
        left, width = left + MARGIN, width - 2 * MARGIN
        axes = self.figure.add_axes(
            (
                left / self.width,
                1 - (top + 20) / self.height,
                width / self.width,
                12 / self.height,
            )
        )
        # On the same mean grey and as opaque as in the picture, so that colours are the same.
        axes.set_facecolor("0.5")
        shades = bar.colors(np.linspace(0, 1, 256))
        shades[:, :3] = OPACITY * shades[:, :3] + (1 - OPACITY) * 0.5
        drawn = self.figure.colorbar(
            ScalarMappable(bar.norm, ListedColormap(shades)),
            cax=axes,
            orientation="horizontal",
        )
        drawn.ax.tick_params(labelsize=9, pad=1, length=3)
        ticks = [value for value, _ in bar.ticks]
        drawn.set_ticks(ticks, labels=[text for _, text in bar.ticks])
        drawn.ax.minorticks_off()
        if bar.mark is not None:
            drawn.ax.axvline(bar.mark, color="white", linewidth=1.5)
        drawn.set_label(bar.label, size=9.5, labelpad=2)
