"""detectron2's Visualizer, with boxes and labels that are legible on any background."""

from typing import Any

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from .style import color_of, resize

FONT_SIZES = (11.0, 15.0)
"""In points, for pictures of up to 320 and from 640 pixels; labels have 0.6 to 1 of this size."""
BACKGROUND = 2
"""Pixels around a label that its background takes."""
LABEL_STEPS = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
"""Places to try for a label, in lines below the wanted one; with all taken it overlaps."""


class Canvas(Visualizer):
    """Draws on an image that is enlarged first, so that text and lines keep their size.

    Coordinates are those of the enlarged image. ``line_width`` is that of boxes, in points.
    """

    def __init__(
        self, image: np.ndarray, metadata: Any = None, scale: float = 1.0, line_width: float = 1.6
    ):
        super().__init__(resize(image, scale), metadata)
        side = max(self.output.width, self.output.height)
        self._default_font_size = float(np.interp(side, (320, 640), FONT_SIZES))
        self._line_width = line_width
        self._labels: list[Bbox] = []
        # Boxes that extend beyond the image must not move its limits.
        self.output.ax.set_autoscale_on(False)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.output.height, self.output.width

    def draw_dots(self, centers: np.ndarray, levels: np.ndarray) -> None:
        """Dots at the centres of cells (k, 2), coloured by level (k,)."""
        style = {"s": 14, "edgecolors": "black", "linewidths": 0.6, "zorder": 4}
        colors = [color_of(level) for level in levels]
        self.output.ax.scatter(*centers.T, c=colors or None, **style)

    def draw_box(self, box_coord: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Visualizer, but opaque and with a dark edge."""
        output = super().draw_box(box_coord, *args, **kwargs)
        patch = self.output.ax.patches[-1]
        patch.set(linewidth=self._line_width, alpha=1)
        patch.set_path_effects([withStroke(linewidth=self._line_width + 1.6, foreground="black")])
        return output

    def draw_text(self, text: str, position: Any, **kwargs: Any) -> Any:
        """As in Visualizer, but moved to where it lies within the picture and on no other label."""
        if not text:
            return self.output
        output = super().draw_text(text, position, **kwargs)
        label = self.output.ax.texts[-1]
        label.set_parse_math(False)  # a class may be named "$5 note"
        extent = label.get_window_extent(self.output.canvas.get_renderer()).padded(BACKGROUND)
        left = np.clip(extent.x0, 0, max(0, self.output.width - extent.width))
        lowest = max(0, self.output.height - extent.height)
        tops = self.output.height - extent.y1 + extent.height * np.array(LABEL_STEPS)
        places = [
            Bbox.from_bounds(left, top, extent.width, extent.height - 1)
            for top in np.clip(tops, 0, lowest)
        ]
        free = (x for x in places if not any(x.overlaps(other) for other in self._labels))
        place = next(free, places[0])
        self._labels.append(place)
        moved = place.x0 - extent.x0, place.y0 - (self.output.height - extent.y1)
        label.set_position(np.add(position, moved))
        return output

    def image(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8 RGB."""
        return np.ascontiguousarray(self.output.get_image())
