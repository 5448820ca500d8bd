"""Geometry of guided anchoring: cells, their squares, approximate anchors and guided anchors.

Shapes in this package follow detectron2's ``rpn.py``:

    N: number of images in the batch
    L: number of feature levels
    Hi, Wi: height and width of the i-th level
    R: number of cells of all levels, sum(Hi * Wi); levels follow each other, rows first
    M: largest number of ground-truth boxes in an image of the batch
    A: number of approximate anchors of a cell (9 in the published models)

Naming:

    cell: a position of a feature map. Its centre is at (column * stride, row * stride) pixels.
    square: the box on a cell's centre from which the guided anchor is predicted.
    approximate anchors: A boxes on a cell's centre, used only to assign shape targets.
    guided anchor: the square with its width and height rescaled by the shape branch.

Boxes are (x1, y1, x2, y2) in pixels.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Bound of the logarithm of a guided anchor's side over its square's.
MAX_LOG_RATIO = math.log(1e6)


class CellGrid(NamedTuple):
    """The cells of all levels for one set of feature map sizes.

    Attributes:
        sizes: (Hi, Wi) of each level.
        strides: distance of neighbouring cells in pixels, by level.
        centers: (R, 2) float32, x and y of each cell in pixels.
        stride: (R,) float32, the stride of each cell's level.
        levels: (L, 4) int64: height, width, first cell and stride of each level.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    centers: Tensor
    stride: Tensor
    levels: Tensor

    @property
    def cells_per_level(self) -> list[int]:
        """Hi * Wi of each level."""
        return [h * w for h, w in self.sizes]

    def level_of(self, cells: Tensor) -> Tensor:
        """Index of the level of each cell: (...) int64 into R to (...) int64."""
        return torch.searchsorted(self.levels[:, 2].contiguous(), cells, right=True) - 1

    def split_levels(self, values: Tensor) -> list[Tensor]:
        """(N, R, ...) to a list of L tensors (N, Hi, Wi, ...)."""
        levels = values.split(self.cells_per_level, dim=1)
        return [x.unflatten(1, size) for x, size in zip(levels, self.sizes, strict=True)]


@functools.lru_cache(maxsize=32)
def make_cell_grid(
    sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device
) -> CellGrid:
    """Cells of levels of the given sizes, cached for the last 32 sets of arguments.

    Args:
        sizes: (Hi, Wi) of each level.
        strides: stride of each level in pixels.
        device: device of the tensors.
    """
    # Cached tensors outlive the step that creates them, which may run in inference mode.
    with torch.inference_mode(False):
        centers, stride = [], []
        for (height, width), s in zip(sizes, strides, strict=True):
            y = torch.arange(height, dtype=torch.float32, device=device) * s
            x = torch.arange(width, dtype=torch.float32, device=device) * s
            yy, xx = torch.meshgrid(y, x, indexing="ij")
            centers.append(torch.stack([xx.flatten(), yy.flatten()], dim=1))
            stride.append(torch.full((height * width,), float(s), device=device))
        first = [0, *itertools.accumulate(h * w for h, w in sizes)]
        levels = torch.tensor(
            [(h, w, f, s) for (h, w), f, s in zip(sizes, first, strides, strict=False)]
        )
        return CellGrid(sizes, strides, torch.cat(centers), torch.cat(stride), levels.to(device))


def cells_inside_images(grid: CellGrid, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Cells that start within their image, in a batch padded to its largest image.

    Args:
        grid: the cells.
        image_sizes: (height, width) of each of the N images before padding, in pixels.

    Returns:
        (N, R) bool.
    """
    device = grid.centers.device
    limits = torch.tensor(image_sizes, dtype=torch.float32).to(device, non_blocking=True)
    # Row i of stride s counts where i < ceil(height / s), which is i * s < height.
    return (grid.centers < limits.flip(1)[:, None, :]).all(dim=2)


def nearest_cells(boxes: Tensor, stride: Tensor, limits: Tensor) -> Tensor:
    """Cells nearest to the centres of boxes.

    Args:
        boxes: (..., 4) in pixels.
        stride: (...) of the level in which the cell is looked up, in pixels.
        limits: (..., 2), width and height of the image or map, in pixels. Cells start within.

    Returns:
        (..., 2) int64, column and row.
    """
    stride = stride[..., None]
    last = (limits / stride).ceil() - 1
    cell = ((boxes[..., :2] + boxes[..., 2:]) / 2 / stride).round()
    return torch.minimum(cell.clamp(min=0), last).long()


def make_squares(grid: CellGrid, base_scale: float) -> Tensor:
    """The square of each cell: side ``base_scale`` times the stride.

    Returns:
        (R, 4) float32 boxes.
    """
    half = (0.5 * base_scale * grid.stride)[:, None]
    return torch.cat([grid.centers - half, grid.centers + half], dim=1)


@functools.lru_cache(maxsize=32)
def approximate_anchor_offsets(
    strides: tuple[int, ...],
    base_scale: float,
    scales_per_octave: int,
    ratios: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    """Corners of a cell's approximate anchors relative to its centre ("Guided Anchoring", 3.3).

    Args:
        strides: strides of the levels in pixels.
        base_scale: the square's side in strides.
        scales_per_octave: number of scales, 2^(i / scales_per_octave) times the square's side.
        ratios: height over width, at equal area.
        device: device of the result.

    Returns:
        (L, A, 4) float32, A = len(ratios) * scales_per_octave.
    """
    with torch.inference_mode(False):
        scales = torch.tensor(
            [base_scale * 2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        )
        h_ratios = torch.tensor([float(r) for r in ratios]).sqrt()
        levels = []
        for stride in strides:
            half_w = 0.5 * (stride * (1 / h_ratios)[:, None] * scales).flatten()
            half_h = 0.5 * (stride * h_ratios[:, None] * scales).flatten()
            levels.append(torch.stack([-half_w, -half_h, half_w, half_h], dim=1))
        return torch.stack(levels).to(device)


def make_guided_anchors(
    centers: Tensor,
    stride: Tensor,
    shape_deltas: Tensor,
    base_scale: float,
    weights: Sequence[float],
) -> Tensor:
    """Squares rescaled by the shape branch ("Guided Anchoring", equation 2).

    Args:
        centers: (..., 2) of the cells, in pixels.
        stride: (...) of the cells.
        shape_deltas: (..., 2), the shape outputs (dw, dh) of the cells.
        base_scale: the square's side in strides.
        weights: divisors of dw and dh before exp.

    Returns:
        (..., 4) boxes in the dtype of ``shape_deltas``, at least float32.
    """
    if shape_deltas.dtype in (torch.float16, torch.bfloat16):
        shape_deltas = shape_deltas.float()
    dw, dh = shape_deltas.unbind(dim=-1)
    log_ratio = torch.stack([dw / weights[0], dh / weights[1]], dim=-1)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    half = 0.5 * (base_scale * stride[..., None] * ratio)
    return torch.cat([centers - half, centers + half], dim=-1)
