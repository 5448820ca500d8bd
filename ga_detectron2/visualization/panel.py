"""Everything about one image side by side, and an overview of many images."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .maps import over_grey
from .style import DPI, PAD, figure_image, new_figure
from .tiles import TILE_SIDE, ColorBar, Tile, make_tiles

SMALL_SIDE = 320
"""Most pixels of the height of a small picture."""
TITLE_SIZE, OVERVIEW_SIZE, LEGEND_SIZE = 12, 10, 9
"""Points of the titles in a panel and in an overview, and of the text below a picture."""
LEGEND_ENTRY = 120
"""Pixels of the width of an entry of a legend."""
BAR = 12
"""Pixels of the height of a colour bar."""
ROOM = 300
"""Pixels above and below the pictures of a row for text, before it is cropped."""
CHARACTER = 0.56 * DPI / 72
"""Pixels of a character's width, about, for each point of the font size."""


def make_panel(image: np.ndarray, *, title: str = "", **what: Any) -> np.ndarray:
    """One picture with everything about an image: :func:`make_tiles`, composed."""
    return compose_panel(make_tiles(image, **what), title)


def compose_panel(tiles: Sequence[Tile], title: str = "") -> np.ndarray:
    """Tiles in rows, the small ones in a row at the bottom.

    Raises:
        ValueError: there are no tiles.
    """
    return figure_image(*panel_rows(tiles, title))


def panel_rows(tiles: Sequence[Tile], title: str = "") -> list[Figure]:
    """A figure for each row of :func:`compose_panel`, all of one width."""
    width = _column_width(tiles, TITLE_SIZE)
    large = [x for x in tiles if not x.small]
    small = [x for x in tiles if x.small]
    limit = (3 if len(large) > 4 else 2) * TILE_SIDE
    columns = max(1, min(len(large or small), int(limit / width)))
    total = columns * (width + 2 * PAD)
    figures = [
        _row_figure(large[i : i + columns], columns, total, TITLE_SIZE)
        for i in range(0, len(large), columns)
    ]
    if small:
        figures.append(_row_figure(small, len(small), total, LEGEND_SIZE, SMALL_SIDE))
    _set_title(figures[0], title)
    return figures


def make_overview(
    rows: Sequence[Sequence[Tile]], names: Sequence[str], title: str = ""
) -> np.ndarray:
    """A sheet with a row of tiles for each image; small tiles are left out.

    Raises:
        ValueError: there are no tiles.
    """
    width = _column_width([tile for row in rows for tile in row], OVERVIEW_SIZE)
    figures = []
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        tiles: list[Tile] = []
        for tile in [x for x in row if not x.small]:
            # One legend for all rows, without the numbers of boxes, which are those of one image.
            entries = [(color, text.partition(" (")[0]) for color, text in tile.legend]
            legend = tuple(entries) if i == len(rows) - 1 else ()
            text = tile.title if tiles else f"{name}\n{tile.title}"
            tiles.append(replace(tile, title=text, color_bar=None, legend=legend))
        total = len(tiles) * (width + 2 * PAD)
        figures.append(_row_figure(tiles, len(tiles), total, OVERVIEW_SIZE))
    _set_title(figures[0], title)
    return figure_image(*figures)


def _column_width(tiles: Sequence[Tile], font_size: float) -> float:
    """Pixels of a column; narrow pictures still need room for their titles."""
    if not tiles:
        raise ValueError("there is nothing to show: no tile was made")
    return max(26 * font_size, *(tile.image.shape[1] for tile in tiles))


def _set_title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=16, x=0.01, ha="left", weight="bold", parse_math=False)


def _row_figure(
    tiles: Sequence[Tile],
    columns: int,
    total_width: float,
    font_size: float,
    max_height: float = np.inf,
) -> Figure:
    """Tiles side by side, their pictures reduced to at most ``max_height`` pixels.

    The figure is higher than they need, so that columns are as wide as in other rows, whatever is
    written above and below the pictures.
    """
    width = total_width / columns - 2 * PAD
    height, picture_width = tiles[0].image.shape[:2]
    shown = min(max_height, height, height * width / picture_width)
    figure = new_figure(total_width, shown + ROOM)
    for axes in figure.subplots(1, columns, squeeze=False)[0]:
        axes.set(xticks=[], yticks=[], frame_on=False, anchor="N")
    for tile, axes in zip(tiles, figure.axes, strict=False):
        axes.imshow(tile.image)
        # As wide as the column, whatever the width of the picture.
        axes.set_xlim(-0.5, max(picture_width, width * height / shown) - 0.5)
        text = _wrap(tile.title, width, font_size)
        axes.set_title(text, fontsize=font_size, loc="left", parse_math=False)
        if tile.legend:
            _draw_legend(tile.legend, axes, max(1, int(width / LEGEND_ENTRY)))
        if tile.color_bar is not None:
            _draw_color_bar(tile.color_bar, axes, width, shown)
    return figure


def _wrap(text: str, width: float, font_size: float) -> str:
    """Text broken into lines that are no wider than a column."""
    characters = max(10, int(width / (CHARACTER * font_size)))
    return "\n".join(textwrap.fill(line, characters) for line in text.split("\n"))


def _draw_legend(entries: Sequence[tuple[Any, str]], axes: Axes, columns: int) -> None:
    lines = [Line2D([], [], color=color, linewidth=4, label=text) for color, text in entries]
    space = {"borderpad": 0.2, "borderaxespad": 0.2, "handlelength": 1, "columnspacing": 1}
    style = {"ncols": columns, "fontsize": LEGEND_SIZE, "frameon": False, **space}
    axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(0, 0), **style)


def _draw_color_bar(bar: ColorBar, axes: Axes, width: float, height: float) -> None:
    # Ends of the bar are inside the column, as are the labels at them.
    place = axes.inset_axes((0.03, -1.5 * BAR / height, 0.94, BAR / height))
    colors = ListedColormap(over_grey(bar.colors(np.linspace(0, 1, 256))[:, :3]))
    scale = ScalarMappable(bar.norm, colors)
    drawn = axes.figure.colorbar(scale, cax=place, orientation="horizontal")
    drawn.set_ticks(list(bar.ticks), labels=list(bar.ticks.values()), fontsize=LEGEND_SIZE)
    drawn.ax.minorticks_off()
    drawn.set_label(_wrap(bar.label, width, LEGEND_SIZE), size=LEGEND_SIZE, labelpad=2)
