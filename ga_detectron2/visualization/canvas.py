"""detectron2's Visualizer, with boxes and labels that can be read on any background."""

from typing import Any

import numpy as np
from detectron2.utils.visualizer import Visualizer
from matplotlib.patheffects import withStroke

from .style import DPI, resize

__all__ = ["Canvas"]

FONT_SIZES = (11.0, 15.0)
"""In points, for pictures up to 320 pixels and from 640 on; labels are 0.6 to 1 times as large."""
BOX_WIDTH = 1.6
"""Of a box's line, in points."""
LABEL_STEPS = (0, 1, -1, 2, -2, 3, -3)
"""Where a label goes whose place is taken, in lines down from it; after the last it stays there."""


class Canvas(Visualizer):
    """Draws on an image that is first enlarged, so that text and lines are not.

    Coordinates given to it are those of the enlarged image.
    """

    def __init__(self, image: np.ndarray, metadata: Any = None, scale: float = 1.0):
        """
        Args:
            image: (H, W, 3) uint8 RGB.
            metadata: of detectron2, for class names.
            scale: from ``image`` to the picture.
        """
        super().__init__(resize(image, scale), metadata)
        side = max(self.output.width, self.output.height)
        self._default_font_size = float(np.interp(side, (320, 640), FONT_SIZES))
        self.output.fig.set_dpi(DPI)
        self.line_width = BOX_WIDTH
        self._labels: list[tuple[float, float, float, float]] = []

    def draw_box(self, box_coord: Any, *args: Any, **kwargs: Any) -> Any:
        """As of Visualizer, opaque and with a dark edge."""
        output = super().draw_box(box_coord, *args, **kwargs)
        patch = self.output.ax.patches[-1]
        patch.set(linewidth=self.line_width, alpha=1)
        patch.set_path_effects([withStroke(linewidth=self.line_width + 1.6, foreground="black")])
        return output

    def draw_text(self, text: str, position: Any, **kwargs: Any) -> Any:
        """As of Visualizer, moved to where all of the text is in the picture and hides no other."""
        if not text:
            return self.output
        size = kwargs.get("font_size") or self._default_font_size
        width = 0.62 * size * DPI / 72 * len(text)
        height = 1.4 * size * DPI / 72
        x, y = position
        if kwargs.get("horizontal_alignment", "center") == "left":
            x = np.clip(x, 1, max(1, self.output.width - width))
            y = self._free_height(x, y, width, height)
        else:
            y = np.clip(y, 1, max(1, self.output.height - height))
        return super().draw_text(text, (x, y), **kwargs)

    def _free_height(self, x: float, y: float, width: float, height: float) -> float:
        """The y next to the wanted one at which a label covers none that was drawn before."""
        lowest = max(1, self.output.height - height)
        places = [y + step * height for step in LABEL_STEPS]
        places = [float(np.clip(place, 1, lowest)) for place in places]
        free = (place for place in places if not self._is_taken(x, place, width, height))
        chosen = next(free, places[0])
        self._labels.append((x, chosen, x + width, chosen + height))
        return chosen

    def _is_taken(self, x: float, y: float, width: float, height: float) -> bool:
        return any(
            x < right and left < x + width and y < bottom - 0.5 and top + 0.5 < y + height
            for left, top, right, bottom in self._labels
        )

    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return np.ascontiguousarray(self.output.get_image())
