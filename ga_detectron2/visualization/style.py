"""Colours, sizes and figures that all pictures share."""

import os

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure

from ga_detectron2.atomic import atomic_open

__all__ = ["COLORS", "check_image", "color_of", "figure_image", "probability_limit", "size_of"]

# Okabe and Ito's palette, which people with any colour blindness can tell apart.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
DPI = 100
"""Pixels an inch of all figures; a point of text is DPI / 72 pixels."""


def color_of(index: int) -> tuple[float, float, float]:
    """A colour (r, g, b) in [0, 1] for a level or a class; after seven they start again."""
    return to_rgb(COLORS[index % len(COLORS)])


def line_color(index: int) -> tuple[float, float, float]:
    """A colour for a curve on white: those of the palette that are dark enough for it."""
    dark = [COLORS[i] for i in (6, 4, 2, 5, 0)]
    return to_rgb(dark[index % len(dark)])


def probability_colors() -> Colormap:
    """For probabilities: lightness rises with the value, so that it survives a grey print."""
    return matplotlib.colormaps["inferno"]


def probability_limit(highest: float) -> float:
    """The round number at or above ``highest`` at which a scale of probabilities ends."""
    for limit in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        if highest <= limit:
            return limit
    return 1.0


def check_image(image: np.ndarray) -> None:
    """Refuse what is not an RGB image.

    Raises:
        ValueError: it is not (H, W, 3) of uint8, or has no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"an image must be an RGB array (H, W, 3) of uint8, not {image.shape} of {image.dtype}"
        )


def size_of(image: np.ndarray) -> tuple[int, int]:
    """(H, W) of an image."""
    return int(image.shape[0]), int(image.shape[1])


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """``image`` with both sides multiplied by ``scale`` and rounded to at least one pixel."""
    check_image(image)
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image.copy()
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=method))


def new_figure(width: int, height: int) -> Figure:
    """A white figure of this many pixels, without pyplot's global state."""
    # A little more than asked for, since matplotlib cuts fractions of a pixel off.
    return Figure(figsize=((width + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI)


def figure_image(figure: Figure) -> np.ndarray:
    """What is drawn in ``figure``, (H, W, 3) uint8 RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def tidy_axes(axes: Axes) -> None:
    """A light grid behind the curves, and no frame above and to the right."""
    axes.grid(color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save_image(image: np.ndarray, path: str) -> None:
    """Write an RGB image to a file of the kind that its name ends in; makes the folder.

    Raises:
        OSError: it cannot be written.
    """
    check_image(image)
    check_image_name(path)
    ending = os.path.splitext(path)[1]
    # Plots shrink to half of what OpenCV's quick compression makes.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9] if ending.lower() == ".png" else []
    try:
        # Not imwrite: OpenCV crashes on a name that is not UTF-8, and hides why a file fails.
        written, content = cv2.imencode(ending, np.ascontiguousarray(image[:, :, ::-1]), options)
    except cv2.error as error:
        raise OSError(f"{path}: {' '.join(str(error).split())}") from error
    if not written:
        raise OSError(f"{path}: OpenCV cannot make a picture of this kind")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with atomic_open(path, sync=False) as file:
        file.write(content.tobytes())


def check_image_name(path: str) -> None:
    """Refuse the name of a file whose ending is not one of a picture that OpenCV writes.

    Raises:
        OSError: it is not.
    """
    ending = os.path.splitext(path)[1]
    if not ending.isascii() or not ending or not cv2.haveImageWriter(f"picture{ending}"):
        raise OSError(f"{path}: its ending is not one of an image, such as .png or .jpg")
