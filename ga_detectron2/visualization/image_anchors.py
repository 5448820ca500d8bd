"""The part of one image in what a model made of a batch, in pixels of a picture of that image."""

from typing import NamedTuple

import numpy as np

from ga_detectron2.modeling.guided_anchoring import GuidedAnchors

__all__ = ["ImageAnchors", "anchors_of_image"]


class ImageAnchors(NamedTuple):
    """Location probabilities and guided anchors of the R cells of an image.

    Attributes:
        probability: (R,) float32.
        boxes: (R, 4) float32 guided anchors (x1, y1, x2, y2) in pixels of the picture.
        centers: (R, 2) float32, x and y of each cell in pixels of the picture.
        level: (R,) int64, from 0, the finest.
        sizes: (Hi, Wi) of each of the L levels.
        strides: of each level in pixels of the network's input.
        scale: pixels of the picture for one of the network's input, (horizontal, vertical).
    """

    probability: np.ndarray
    boxes: np.ndarray
    centers: np.ndarray
    level: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    scale: tuple[float, float]

    def level_maps(self, values: np.ndarray) -> list[np.ndarray]:
        """(R, ...) as L maps (Hi, Wi, ...)."""
        ends = np.cumsum([h * w for h, w in self.sizes])[:-1]
        parts = np.split(values, ends)
        return [x.reshape(*s, *x.shape[1:]) for x, s in zip(parts, self.sizes, strict=True)]

    def nearest_cells(self, level: int, picture_size: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """The row and the column of a level's map that lie nearest to each pixel.

        Args:
            level: from 0.
            picture_size: (H, W) of the picture.

        Returns:
            indices (H, 1) and (1, W), with which a map (Hi, Wi) becomes a picture (H, W).
        """
        stride = self.strides[level]
        index = []
        for pixels, scale, count in zip(
            picture_size, reversed(self.scale), self.sizes[level], strict=True
        ):
            # Cell i has its centre at i * stride, a pixel has its own half a pixel after its edge.
            position = (np.arange(pixels) + 0.5) / scale / stride
            index.append(np.clip(np.floor(position + 0.5).astype(int), 0, count - 1))
        return index[0][:, None], index[1][None, :]


def anchors_of_image(
    guided: GuidedAnchors, index: int, input_size: tuple[int, int], picture_size: tuple[int, int]
) -> ImageAnchors:
    """Take one image out of a batch, and scale it to a picture.

    Args:
        guided: of a batch, see :func:`ga_detectron2.record_guided_anchors`.
        index: of the image in the batch.
        input_size: (height, width) of this image as the network saw it, *before* it was padded to
            the size of the batch.
        picture_size: (height, width) of the picture to draw on.

    Raises:
        ValueError: the batch has no such image, or its maps are too small for ``input_size``.
    """
    batch = guided.loc_logits.shape[0]
    if not 0 <= index < batch:
        raise ValueError(f"there is no image {index} in a batch of {batch}")
    sizes, strides = guided.grid.sizes, guided.grid.strides
    covered = tuple(n * strides[0] for n in sizes[0])
    if any(not 0 < n <= c for n, c in zip(input_size, covered, strict=True)):
        raise ValueError(
            f"input_size {tuple(input_size)} does not fit maps that cover {covered} pixels: it "
            "is the (height, width) of the image as the network saw it, without padding"
        )
    scale = (picture_size[1] / input_size[1], picture_size[0] / input_size[0])
    xy = np.asarray(scale, dtype=np.float32)
    level = np.repeat(np.arange(len(sizes)), guided.grid.cells_per_level)
    return ImageAnchors(
        probability=guided.loc_logits[index].detach().float().sigmoid().cpu().numpy(),
        boxes=guided.anchors[index].detach().float().cpu().numpy() * np.tile(xy, 2),
        centers=guided.grid.centers.cpu().numpy() * xy,
        level=level,
        sizes=tuple(sizes),
        strides=tuple(strides),
        scale=scale,
    )
