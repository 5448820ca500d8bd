"""3x3 convolutions evaluated at some cells only."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .feature_adaption import cells_per_chunk

# Share of a map's cells above which a dense convolution is cheaper: on a CPU, 0.3 to 0.6 in
# inference, and 0.13 in the backward pass of four output channels (benchmarks/adaption.py), where
# training has a few percent.
DENSE_FROM = 0.35


class NeighboringCells(NamedTuple):
    """Some cells of a level with the cells around them.

    Attributes:
        cells: (k,) int64 into the N * Hi * Wi cells.
        known: (k',) int64, ``cells`` and all their neighbours.
        neighbors: (k, 9), see :func:`neighbor_index`.
    """

    cells: Tensor
    known: Tensor
    neighbors: Tensor

    @classmethod
    def of(cls, chosen: Tensor, size: tuple[int, int]) -> "NeighboringCells":
        """Create from (N, Hi * Wi) bool and (Hi, Wi)."""
        known = with_neighbors(chosen.unflatten(1, size)).flatten()
        cells = chosen.flatten().nonzero().squeeze(1)
        return cls(cells, known.nonzero().squeeze(1), neighbor_index(cells, known, size))


def with_neighbors(cells: Tensor) -> Tensor:
    """Cells and their eight neighbours.

    Args:
        cells: (N, H, W) bool.

    Returns:
        (N, H, W) bool.
    """
    return F.max_pool2d(cells[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0


def neighbor_index(cells: Tensor, known: Tensor, size: tuple[int, int]) -> Tensor:
    """Positions of the 3x3 neighbours of some cells in a list of known cells.

    Args:
        cells: (K,) int64 into the N * H * W cells of a map.
        known: (N * H * W,) bool; includes all neighbours of ``cells``.
        size: (H, W).

    Returns:
        (K, 9) int64 into the K' known cells, taps in row order; index K' (one past the end) marks
        neighbours outside the map.
    """
    height, width = size
    number = known.long().cumsum(0) - 1
    row, column = cells // width % height, cells % width
    step = torch.arange(-1, 2, device=cells.device)
    dy, dx = step.repeat_interleave(3), step.repeat(3)
    y, x = row[:, None] + dy, column[:, None] + dx
    within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = cells[:, None] + dy * width + dx
    return torch.where(within, number[torch.where(within, index, 0)], known.sum())


def conv3x3(
    rows: Tensor, cells: NeighboringCells, conv: nn.Conv2d, shape: tuple[int, int, int]
) -> Tensor:
    """Output of a 3x3 convolution with padding 1 at some cells, by the faster method.

    Args:
        rows: (k', C), features of ``cells.known``.
        cells: cells at which to evaluate.
        conv: 3x3 convolution with C input channels.
        shape: (N, H, W) of the map.

    Returns:
        (k, output channels).
    """
    count = math.prod(shape)
    if cells.cells.shape[0] <= DENSE_FROM * count:
        return conv3x3_at_cells(rows, cells.neighbors, conv, cells_per_chunk(rows, count))
    if rows.shape[0] < count:
        rows = rows.new_zeros(count, rows.shape[1]).index_copy(0, cells.known, rows)
    output: Tensor = conv(rows.unflatten(0, shape).permute(0, 3, 1, 2))
    return output.permute(0, 2, 3, 1).flatten(0, 2)[cells.cells]


def conv3x3_at_cells(
    rows: Tensor, neighbors: Tensor, conv: nn.Conv2d, at_a_time: int | None = None
) -> Tensor:
    """Output of a 3x3 convolution with padding 1 at some cells, from their neighbours alone.

    Args:
        rows: (K', C), features of the known cells.
        neighbors: (K, 9), see :func:`neighbor_index`.
        conv: 3x3 convolution with C input channels.
        at_a_time: number of cells whose taps are in memory at once; None for all.

    Returns:
        (K, output channels).
    """
    padded = F.pad(rows, (0, 0, 0, 1))
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
    if at_a_time is None or neighbors.shape[0] <= at_a_time:
        return F.linear(padded[neighbors].flatten(1), weight, conv.bias)
    chunks = [
        F.linear(padded[some].flatten(1), weight, conv.bias) for some in neighbors.split(at_a_time)
    ]
    return torch.cat(chunks)
