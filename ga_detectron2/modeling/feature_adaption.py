"""Feature adaption ("Guided Anchoring", section 3.4): deformable convolution by predicted shape.

A 3x3 convolution whose taps are moved by offsets that a 1x1 convolution computes from a cell's
shape outputs. It can be applied to all cells of a map or, at a fraction of the cost, only to the
cells where the result is needed: gather the moved taps of these cells by bilinear interpolation,
then multiply them by the kernel. Both give the same values.

Features are stored as rows, (N, Hi * Wi, C): a channels-last map viewed as a matrix.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from .weighted_sums import weighted_sums

KERNEL_SIZE = 3
TAPS = KERNEL_SIZE * KERNEL_SIZE
# More than a map has rows or columns; float32 holds such positions with their fractions.
MOST_CELLS = 1 << 16

# Number of cells whose taps are gathered at a time, which bounds memory. Nine taps of 256 float32
# channels are 19 MB for this many cells, which are multiplied while still in a CPU's cache. A GPU
# prefers few kernels.
CELLS_PER_CHUNK = 2048
CELLS_PER_CHUNK_ON_GPU = 65536
# In the backward pass each chunk has a gradient as large as all rows, so there may only be a few.
CHUNKS_WITH_GRADIENT = 8


def cells_per_chunk(rows: Tensor, cells: int) -> int:
    """Number of cells, of at most ``cells``, whose taps are gathered from ``rows`` at a time."""
    if rows.is_cuda:
        return CELLS_PER_CHUNK_ON_GPU
    if torch.is_grad_enabled() and rows.requires_grad:
        return max(CELLS_PER_CHUNK, -(-cells // CHUNKS_WITH_GRADIENT))
    return CELLS_PER_CHUNK


class FeatureRows(NamedTuple):
    """A feature map as a matrix.

    Attributes:
        rows: (N, H * W, C).
        height, width: size of the map in cells.
    """

    rows: Tensor
    height: int
    width: int

    def to_map(self) -> Tensor:
        """(N, C, H, W), a view."""
        return self.rows.unflatten(1, (self.height, self.width)).permute(0, 3, 1, 2)


def to_rows(feature_map: Tensor) -> FeatureRows:
    """(N, C, H, W) as rows; a view where the map is in channels-last memory format."""
    height, width = feature_map.shape[-2:]
    rows = feature_map.permute(0, 2, 3, 1).contiguous().flatten(1, 2)
    return FeatureRows(rows, height, width)


class FeatureAdaption(nn.Module):
    """3x3 deformable convolution with offsets from the shape outputs, then ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, deform_groups: int, init_std: float = 0.01
    ):
        """
        Args:
            in_channels, out_channels: channels before and after adaption.
            deform_groups: groups of input channels that share their offsets. 0 holds all offsets
                at zero, for an ordinary convolution to compare with.
            init_std: standard deviation of the convolution's initial weights.

        Raises:
            ValueError: ``deform_groups`` does not divide ``in_channels``, or ``init_std`` is not
                positive.
        """
        if not init_std > 0:
            raise ValueError(
                f"MODEL.GUIDED_ANCHOR.ADAPTION_INIT_STD {init_std} must be positive, such as the "
                "published 0.01"
            )
        groups = max(deform_groups, 1)
        if deform_groups < 0 or in_channels % groups:
            raise ValueError(
                f"MODEL.GUIDED_ANCHOR.DEFORM_GROUPS {deform_groups} does not divide the head's "
                f"{in_channels} channels; the published models have 4 groups of 64"
            )
        super().__init__()
        self.deform_groups = groups
        self.offset = nn.Conv2d(2, groups * TAPS * 2, 1, bias=False)
        self.conv = nn.Conv2d(in_channels, out_channels, KERNEL_SIZE, padding=1, bias=False)
        if deform_groups:
            nn.init.normal_(self.offset.weight, std=0.1)
        else:
            nn.init.zeros_(self.offset.weight).requires_grad_(False)
        nn.init.normal_(self.conv.weight, std=init_std)

    def forward(
        self,
        features: FeatureRows,
        shape_deltas: Tensor,
        then: Callable[[Tensor], Tensor] | None = None,
    ) -> FeatureRows:
        """Adapt every cell.

        Args:
            features: one level of N images.
            shape_deltas: (N, H * W, 2), the shape outputs; no gradient flows into them.
            then: applied to the adapted features of the cells, (k, C) to (k, C'), in chunks, so
                that the whole adapted map is never in memory.
        """
        N, cells = shape_deltas.shape[:2]
        if features.rows.is_cuda:
            adapted = to_rows(self._deform_conv(features, shape_deltas))
            return adapted if then is None else adapted._replace(rows=then(adapted.rows))
        every_cell = torch.arange(N * cells, device=shape_deltas.device)
        rows = self.at_cells(features, every_cell, shape_deltas.flatten(0, 1), then)
        return features._replace(rows=rows.unflatten(0, (N, cells)))

    def at_cells(
        self,
        features: FeatureRows,
        cells: Tensor,
        shape_deltas: Tensor,
        then: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Adapt some cells.

        Args:
            features: one level of N images.
            cells: (K,) int64 into the N * H * W cells of the map.
            shape_deltas: (K, 2), the shape outputs of these cells; no gradient flows into them.
            then: as in :meth:`forward`.

        Returns:
            (K, C), or (K, C') of ``then``.
        """

        def adapt(cells: Tensor, shape_deltas: Tensor) -> Tensor:
            adapted = self.project(self.gather_taps(features, cells, shape_deltas))
            return adapted if then is None else then(adapted)

        at_a_time = cells_per_chunk(features.rows, features.rows.shape[:2].numel())
        if cells.shape[0] <= at_a_time:
            return adapt(cells, shape_deltas)
        chunks = zip(cells.split(at_a_time), shape_deltas.split(at_a_time), strict=True)
        return torch.cat([adapt(*chunk) for chunk in chunks])

    def gather_taps(self, features: FeatureRows, cells: Tensor, shape_deltas: Tensor) -> Tensor:
        """The moved taps of some cells of one level.

        Args:
            features, cells, shape_deltas: as in :meth:`at_cells`.

        Returns:
            (K, groups * 9 * C / groups), in the order that :meth:`project` takes.
        """
        cell = cells % (features.height * features.width)
        return self.gather_taps_of_maps(
            features.rows, cells - cell, (features.height, features.width), cell, shape_deltas
        )

    def gather_taps_of_maps(
        self,
        rows: Tensor,
        first: Tensor,
        size: tuple[int, int] | tuple[Tensor, Tensor],
        cells: Tensor,
        shape_deltas: Tensor,
    ) -> Tensor:
        """The moved taps of some cells, each of its own map.

        Args:
            rows: (..., C), the features of all maps.
            first: (K,) int64 into the rows, the first cell of each cell's map.
            size: height and width of the maps, numbers or (K,) int64.
            cells: (K,) int64, each within its map.
            shape_deltas: (K, 2), as in :meth:`at_cells`.

        Returns:
            As :meth:`gather_taps`.
        """
        offsets = self._offsets(shape_deltas).unflatten(1, (self.deform_groups, TAPS, 2))
        return _gather_moved_taps(rows, first, size, cells, offsets)

    def project(self, taps: Tensor) -> Tensor:
        """(K, groups * 9 * C / groups) gathered taps to (K, C) adapted features."""
        return F.relu(self._multiply(taps))

    def _offsets(self, shape_deltas: Tensor) -> Tensor:
        """(..., 2) to (..., groups * 9 * 2), pixels of the map, in float32 under autocast too."""
        weight = self.offset.weight.flatten(1)
        with torch.autocast(shape_deltas.device.type, enabled=False):
            return F.linear(shape_deltas.detach().to(weight.dtype), weight)

    def _multiply(self, taps: Tensor) -> Tensor:
        weight = self.conv.weight.unflatten(1, (self.deform_groups, -1)).flatten(3)
        # (out, group, C / group, tap) to (out, group, tap, C / group).
        return F.linear(taps, weight.transpose(2, 3).flatten(1))

    def _deform_conv(self, features: FeatureRows, shape_deltas: Tensor) -> Tensor:
        offsets = features._replace(rows=self._offsets(shape_deltas)).to_map()
        weight = self.conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            return F.relu(
                torchvision.ops.deform_conv2d(
                    features.to_map().to(weight.dtype).contiguous(),
                    offsets.contiguous(),
                    weight,
                    padding=1,
                )
            )


def _gather_moved_taps(
    rows: Tensor,
    first: Tensor,
    size: tuple[int, int] | tuple[Tensor, Tensor],
    cells: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Bilinear values at the nine moved taps of some cells; zero outside the map.

    One tap of one group is a weighted sum of four pieces of C / groups channels.

    Args:
        rows, first, size, cells: as in :meth:`FeatureAdaption.gather_taps_of_maps`.
        offsets: (K, groups, 9, 2), (dy, dx) in pixels of the map, taps in row order.

    Returns:
        (K, groups * 9 * C / groups).
    """
    groups = offsets.shape[1]
    # In a trace, numbers are tensors without dimensions.
    height, width = (x[:, None, None] if isinstance(x, Tensor) and x.dim() else x for x in size)
    row, column = (x[:, None, None] for x in (cells // size[1], cells % size[1]))
    y, y_weight = _between(row + _tap_steps(offsets, repeat=True) + offsets[..., 0], height)
    x, x_weight = _between(column + _tap_steps(offsets, repeat=False) + offsets[..., 1], width)
    # The table's rows are the pieces of one group at one position, groups within positions.
    table = rows.reshape(-1, rows.shape[-1] // groups)
    group = torch.arange(groups, device=cells.device, dtype=torch.int32)[:, None]
    y = [(first.int()[:, None, None] + i * width) * groups for i in y]
    x = [i * groups + group for i in x]
    # The four pieces are the innermost axis. Stacking them at the end is faster than broadcasting
    # over two axes of length 2.
    entries = torch.stack([i + j for i in y for j in x], dim=-1)
    weights = torch.stack([v * w for v in y_weight for w in x_weight], dim=-1)
    taps = weighted_sums(table, entries.reshape(-1, 4), weights.reshape(-1, 4).to(table.dtype))
    return taps.reshape(cells.shape[0], rows.shape[-1] * TAPS)  # len() would end a trace


def _between(position: Tensor, size: int | Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two rows (or columns) between which taps lie.

    Args:
        position: (K, groups, 9), in cells.
        size: number of rows (or columns) of the map, or (K, 1, 1).

    Returns:
        two (K, groups, 9) int32 indices within the map, and their weights, 0 outside the map.
    """
    # An index must not overflow.
    position = position.nan_to_num(nan=-2.0).clamp(-2, MOST_CELLS)
    floor = position.detach().floor()
    share = position - floor
    # 32 bits suffice for billions of entries and halve the memory of the largest tensors.
    before = floor.int()
    indices, weights = [], []
    for index, weight in ((before, 1 - share), (before + 1, share)):
        inside = (index >= 0) & (index < size)
        indices.append(torch.where(inside, index, 0))
        weights.append(torch.where(inside, weight, 0.0))
    return indices, weights


def _tap_steps(offsets: Tensor, repeat: bool) -> Tensor:
    """(9,) steps from a cell to the taps of its kernel: rows (repeated) or columns (in turn)."""
    steps = torch.arange(-1, KERNEL_SIZE - 1, device=offsets.device, dtype=offsets.dtype)
    return steps.repeat_interleave(KERNEL_SIZE) if repeat else steps.repeat(KERNEL_SIZE)
