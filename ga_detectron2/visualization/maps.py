"""Location probability and anchor shape as colour maps over an image."""

from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

from .style import resize

OPACITY = 0.7
"""Opacity of a heat map drawn over the image."""
PROBABILITY_COLORS = matplotlib.colormaps["inferno"]
"""Lightness rises with the value, so that it survives a grey print."""
ASPECT_COLORS = matplotlib.colormaps["PuOr"]
ASPECT_NORM = LogNorm(1 / 8, 8, clip=True)


class ImageAnchors(NamedTuple):
    """Location probabilities and guided anchors of the R cells of one image.

    Coordinates are in pixels of the network's input. Pictures may have any other size.

    Attributes:
        probability: (R,) float32.
        boxes: (R, 4) float32 guided anchors (x1, y1, x2, y2).
        centers: (R, 2) float32, x and y of each cell.
        level: (R,) int64, from 0, the finest.
        sizes: (Hi, Wi) of each of the L levels.
        strides: stride of each level in pixels.
        input_size: (height, width) of the image, without padding.
    """

    probability: np.ndarray
    boxes: np.ndarray
    centers: np.ndarray
    level: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]

    def scale_to(self, size: tuple[int, int]) -> np.ndarray:
        """(2,) float32, x and y: pixels of a picture (H, W) for each pixel of the input."""
        return np.divide(size, self.input_size, dtype=np.float32)[::-1]

    def level_maps(self, values: np.ndarray) -> list[np.ndarray]:
        """(R,) as L maps (Hi, Wi)."""
        parts = np.split(values, np.cumsum([h * w for h, w in self.sizes])[:-1])
        return [x.reshape(shape) for x, shape in zip(parts, self.sizes, strict=True)]

    def enlarge(self, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """(R,) as L maps (H, W) of a picture: each pixel has the value of its nearest cell."""
        scales = self.scale_to(size)[::-1]
        maps = []
        for level, stride in zip(self.level_maps(values), self.strides, strict=True):
            index = []
            for pixels, scale, cells in zip(size, scales, level.shape, strict=True):
                # The centre of cell i is at i * stride; that of a pixel half a pixel off its edge.
                position = (np.arange(pixels) + 0.5) / scale / stride
                index.append(np.clip(np.floor(position + 0.5).astype(int), 0, cells - 1))
            maps.append(level[np.ix_(*index)])
        return np.stack(maps)

    def location_map(self, size: tuple[int, int], level: int | None = None) -> np.ndarray:
        """(H, W) location probability of a level, or the highest of all, at each pixel."""
        maps = self.enlarge(self.probability, size)
        return np.asarray(maps.max(axis=0) if level is None else maps[level])

    def shape_map(self, size: tuple[int, int], threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Width over height of the guided anchor at each pixel of a picture (H, W).

        Of a pixel's nearest cells, one on each level, that of the highest location probability
        counts. Returns the ratios (H, W) float32, and (H, W) bool: whether the cell passes the
        location filter.
        """
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        ratios = self.enlarge(width / height, size)
        probabilities = self.enlarge(self.probability, size)
        ratio = np.take_along_axis(ratios, probabilities.argmax(axis=0)[None], axis=0)[0]
        return ratio, probabilities.max(axis=0) >= threshold


def anchors_of_image(
    guided: GuidedAnchors, input_size: tuple[int, int], index: int = 0
) -> ImageAnchors:
    """The image at ``index`` of a batch.

    Args:
        guided: guided anchors of the batch, see :func:`ga_detectron2.record_guided_anchors`.
        input_size: (height, width) of the image as the network saw it, *before* padding to the
            size of the batch.

    Raises:
        ValueError: ``input_size`` is larger than the batch.
    """
    sizes, strides = guided.grid.sizes, guided.grid.strides
    covered = tuple(n * strides[0] for n in sizes[0])
    if any(not 0 < n <= c for n, c in zip(input_size, covered, strict=True)):
        raise ValueError(
            f"input_size {tuple(input_size)} does not fit maps that cover {covered} pixels: pass "
            "the (height, width) of the image as the network saw it, without padding"
        )
    return ImageAnchors(
        probability=guided.loc_logits[index].detach().float().sigmoid().cpu().numpy(),
        boxes=guided.anchors[index].detach().float().cpu().numpy(),
        centers=guided.grid.centers.cpu().numpy(),
        level=np.repeat(np.arange(len(sizes)), guided.grid.cells_per_level),
        sizes=tuple(sizes),
        strides=tuple(strides),
        input_size=input_size,
    )


def draw_location(
    image: np.ndarray,
    anchors: ImageAnchors,
    *,
    level: int | None = None,
    vmax: float | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """Location probability of a level, or the highest of all, in colour over the image in grey.

    The colours are those of probabilities from 0 to ``vmax``, or to a round number at or above the
    highest one that is shown.
    """
    canvas = resize(image, scale)
    probability = anchors.location_map(canvas.shape[:2], level)
    vmax = vmax or probability_limit(float(probability.max()))
    return _blend(canvas, PROBABILITY_COLORS(probability / vmax)[..., :3])


def draw_shape(
    image: np.ndarray, anchors: ImageAnchors, *, threshold: float = 0.01, scale: float = 1.0
) -> np.ndarray:
    """Aspect ratios of guided anchors in colour over the image in grey: orange tall, purple wide.

    Pixels are left grey where no cell passes the location filter.
    """
    canvas = resize(image, scale)
    ratio, kept = anchors.shape_map(canvas.shape[:2], threshold)
    return _blend(canvas, ASPECT_COLORS(ASPECT_NORM(ratio))[..., :3], kept)


def probability_limit(highest: float) -> float:
    """The round number at or above ``highest`` at which a scale of probabilities ends."""
    limits = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    return next((limit for limit in limits if highest <= limit), 1.0)


def over_grey(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) in [0, 1] as they look in a heat map over a mean grey."""
    return OPACITY * colors + (1 - OPACITY) * 0.5


def _blend(image: np.ndarray, colors: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Colours (H, W, 3) in [0, 1] over the image in grey, where ``mask`` (H, W) is True."""
    # Greys of half the contrast, so that dark pixels do not look like a low probability.
    grey = 0.25 + 0.5 * (image / 255) @ np.array([0.299, 0.587, 0.114])
    mixed = OPACITY * colors + (1 - OPACITY) * grey[..., None]
    if mask is not None:
        mixed = np.where(mask[..., None], mixed, grey[..., None])
    return np.asarray((mixed * 255).round().astype(np.uint8))
