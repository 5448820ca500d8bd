"""The shapes that guided anchors take, as maps over an image."""

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

from .image_anchors import ImageAnchors, anchors_of_image
from .location import blend_heat_map
from .style import resize, size_of

__all__ = ["ASPECT_LIMIT", "ASPECT_NORM", "draw_shape", "shape_map"]

ASPECT_LIMIT = 8.0
"""Aspect ratios beyond this, or below its inverse, have its colour."""
ASPECT_NORM = LogNorm(1 / ASPECT_LIMIT, ASPECT_LIMIT, clip=True)
ASPECT_COLORS = matplotlib.colormaps["PuOr"]


def shape_map(
    anchors: ImageAnchors, picture_size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Width over height of the guided anchor at each pixel.

    A pixel has a nearest cell on each level; the one of the highest location probability counts.

    Args:
        anchors: of the image.
        picture_size: (H, W) that ``anchors`` were scaled to.
        threshold: of the location filter.

    Returns:
        (H, W) float32 ratios, and (H, W) bool: whether that cell passes the location filter.
    """
    # In pixels of the network's input, where the model thinks of them.
    side = (anchors.boxes[:, 2:] - anchors.boxes[:, :2]) / np.asarray(anchors.scale)
    ratios = anchors.level_maps((side[:, 0] / side[:, 1]).astype(np.float32))
    probabilities = anchors.level_maps(anchors.probability)
    cells = [anchors.nearest_cells(i, picture_size) for i in range(len(ratios))]
    probability = np.stack([x[c] for x, c in zip(probabilities, cells, strict=True)])
    ratio = np.stack([x[c] for x, c in zip(ratios, cells, strict=True)])
    best = probability.argmax(axis=0)[None]
    return (
        np.take_along_axis(ratio, best, axis=0)[0],
        np.take_along_axis(probability, best, axis=0)[0] >= threshold,
    )


def draw_shape(
    image: np.ndarray,
    guided: GuidedAnchors,
    input_size: tuple[int, int],
    index: int = 0,
    *,
    threshold: float = 0.01,
    scale: float = 1.0,
) -> np.ndarray:
    """Aspect ratios of guided anchors in colour over the image in grey: orange tall, purple wide.

    Pixels are left grey where no cell passes the location filter.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        guided: of the batch with this image.
        input_size: (height, width) of this image as the network saw it, before padding.
        index: of the image in the batch.
        threshold: of the location filter.
        scale: enlarges the picture.
    """
    canvas = resize(image, scale)
    size = size_of(canvas)
    ratio, kept = shape_map(anchors_of_image(guided, index, input_size, size), size, threshold)
    return blend_heat_map(canvas, ASPECT_COLORS(ASPECT_NORM(ratio))[..., :3], kept)
