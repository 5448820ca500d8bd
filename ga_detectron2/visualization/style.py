"""Colours, figures and image files that all pictures share."""

import io
import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from ga_detectron2.atomic import atomic_open

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
"""Okabe and Ito's palette, which stays distinguishable with any colour blindness."""
DPI = 100
"""Pixels per inch of all figures."""
PAD = 8
"""Pixels around the content of each axes."""
MARGIN = 15
"""White pixels around the content of a figure."""


def color_of(index: int) -> tuple[float, float, float]:
    """Colour (r, g, b) in [0, 1] of a level or a class; repeats after seven."""
    return to_rgb(COLORS[index % len(COLORS)])


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 with both sides multiplied by ``scale``."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def new_figure(width: float, height: float) -> Figure:
    """A white figure of about this many pixels, laid out by matplotlib, without pyplot's state."""
    layout = ConstrainedLayoutEngine(h_pad=PAD / DPI, w_pad=PAD / DPI, wspace=0)
    return Figure((width / DPI, height / DPI), DPI, layout=layout)


def figure_image(*figures: Figure) -> np.ndarray:
    """Figures of one width, one below the other, cropped to what is drawn: (H, W, 3) uint8 RGB."""
    rows = []
    for figure in figures:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        row = np.asarray(canvas.buffer_rgba())[..., :3]
        drawn = np.flatnonzero((row < 255).any(axis=(1, 2)))
        row = row[drawn[0] : drawn[-1] + 1]
        rows.append(np.pad(row, ((MARGIN, 0), (0, 0), (0, 0)), constant_values=255))
    image = np.concatenate(rows)
    drawn = np.flatnonzero((image < 255).any(axis=(0, 2)))
    image = image[:, drawn[0] : drawn[-1] + 1]
    return np.pad(image, ((0, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)


def tidy_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes, put a light grid behind the curves, and remove the upper and right frame."""
    axes.set_xlabel(x_label, fontsize=12)
    axes.set_ylabel(y_label, fontsize=12)
    axes.grid(color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_image(image: np.ndarray, path: str) -> None:
    """Write an RGB image to a file of the format that its extension names; makes the folder.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format(path), quality=95)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with atomic_open(path, sync=False) as file:
        file.write(buffer.getvalue())


def image_format(path: str) -> str:
    """Pillow's name of the format in which an image is written to ``path``.

    Raises:
        OSError: the extension is not that of an image.
    """
    image_format = Image.registered_extensions().get(os.path.splitext(path)[1].lower(), "")
    if image_format not in Image.SAVE:
        raise OSError(f"{path}: its extension is not that of an image, such as .png or .jpg")
    return image_format
