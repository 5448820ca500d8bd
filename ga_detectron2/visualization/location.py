"""Location probability as a heat map."""

import numpy as np

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

from .image_anchors import ImageAnchors, anchors_of_image
from .style import check_image, probability_colors, probability_limit, resize, size_of

__all__ = ["draw_location", "location_map"]

OPACITY = 0.7
"""Of a heat map over its image."""


def location_map(
    anchors: ImageAnchors, picture_size: tuple[int, int], level: int | None = None
) -> np.ndarray:
    """Location probability at each pixel: that of the nearest cell, nothing is smoothed.

    Args:
        anchors: of the image.
        picture_size: (H, W) that ``anchors`` were scaled to.
        level: from 0; without it, the highest of all levels.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: there is no such level.
    """
    if level is not None and not 0 <= level < len(anchors.sizes):
        raise ValueError(f"there is no level {level}: the model has {len(anchors.sizes)}")
    maps = anchors.level_maps(anchors.probability)
    levels = range(len(maps)) if level is None else [level]
    pictures = [maps[i][anchors.nearest_cells(i, picture_size)] for i in levels]
    return np.asarray(np.max(pictures, axis=0))


def draw_location(
    image: np.ndarray,
    guided: GuidedAnchors,
    input_size: tuple[int, int],
    index: int = 0,
    *,
    level: int | None = None,
    vmax: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """The location probability in colour over the image in grey.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        guided: of the batch with this image.
        input_size: (height, width) of this image as the network saw it, before padding.
        index: of the image in the batch.
        level: one level, from 0; without it, the highest of all levels.
        vmax: probability at which the colours end. They start at 0. Without it, the
            ``probability_limit`` of what is shown.
        scale: enlarges the picture.
    """
    canvas = resize(image, scale)
    size = size_of(canvas)
    probability = location_map(anchors_of_image(guided, index, input_size, size), size, level)
    if vmax is None:
        vmax = probability_limit(float(probability.max()))
    return blend_heat_map(canvas, probability_colors()(probability / vmax)[..., :3])


def blend_heat_map(
    image: np.ndarray, colors: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Colours (H, W, 3) in [0, 1] over the image in grey, where ``mask`` (H, W) says so."""
    check_image(image)
    # Greys of half the contrast, so that dark pixels are not taken for a low probability.
    grey = 0.25 + 0.5 * (image / 255) @ np.array([0.299, 0.587, 0.114])
    grey = np.repeat(grey[..., None], 3, axis=2)
    mixed = OPACITY * colors + (1 - OPACITY) * grey
    if mask is not None:
        mixed = np.where(mask[..., None], mixed, grey)
    return np.asarray((mixed * 255).round().clip(0, 255).astype(np.uint8))
