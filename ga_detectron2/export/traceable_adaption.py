"""Feature adaption at some cells, in a form that can be traced.

TorchScript has ``embedding_bag``, with which :class:`FeatureAdaption` gathers; ONNX does not.
There, taps are gathered by plain indices, one after the other, and each is multiplied with its part
of the kernel at once: memory holds a single tap of all cells, and ONNX Runtime's CPU needs a third
of the time of its GridSample.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ga_detectron2.modeling.feature_adaption import (
    KERNEL_SIZE,
    TAPS,
    FeatureAdaption,
    FeatureRows,
)


def adapt_cells(
    adaption: FeatureAdaption, features: FeatureRows, cells: Tensor, shape_deltas: Tensor
) -> Tensor:
    """The result of :meth:`FeatureAdaption.at_cells`, by operators that can be exported.

    Args:
        adaption: layer with the weights.
        features: one level of one image.
        cells: (K,) int64 into the H * W cells of the map.
        shape_deltas: (K, 2), the shape outputs of these cells.

    Returns:
        (K, C).
    """
    if torch.onnx.is_in_onnx_export():
        return adapt_cells_by_indices(adaption, features, cells, shape_deltas)
    # Not at_cells: a trace would have the number of chunks of the traced image.
    return adaption.project(adaption.gather_taps(features, cells, shape_deltas))


def adapt_cells_by_indices(
    adaption: FeatureAdaption, features: FeatureRows, cells: Tensor, shape_deltas: Tensor
) -> Tensor:
    """Same as :func:`adapt_cells`, by indices, products and sums alone."""
    rows, height, width = features
    groups = adaption.deform_groups
    offsets = F.linear(shape_deltas, adaption.offset.weight.flatten(1))
    offsets = offsets.reshape(-1, groups, TAPS, 2).permute(2, 3, 0, 1)  # (9, dy and dx, K, groups)
    step = torch.arange(-1, KERNEL_SIZE - 1, device=cells.device)
    row = cells // width + step.repeat_interleave(KERNEL_SIZE)[:, None]  # (9, K)
    column = cells % width + step.repeat(KERNEL_SIZE)[:, None]
    y, y_weight = _between(row[..., None], offsets[:, 0], height)  # (9, 2, K, groups)
    x, x_weight = _between(column[..., None], offsets[:, 1], width)
    group = torch.arange(groups, device=cells.device)
    # Pieces of one group at one cell, groups within cells; a moved tap is a sum of four.
    pieces = rows.reshape(-1, rows.shape[-1] // groups)
    entries = (y[:, :, None] * width + x[:, None]) * groups + group
    weights = y_weight[:, :, None] * x_weight[:, None]
    kernel = adaption.conv.weight.unflatten(1, (groups, -1)).flatten(3).permute(3, 0, 1, 2)
    return _sum_of_taps(pieces, entries, weights, kernel.flatten(2))


def _between(start: Tensor, offset: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two rows (or columns) between which moved taps lie.

    Args:
        start: (9, K, 1) int64, where the taps are before they are moved.
        offset: (9, K, groups), by how much they are moved.
        size: number of rows (or columns) of the map.

    Returns:
        (9, 2, K, groups) int64 indices, and their weights, which are 0 outside the map.
    """
    # Everything beyond one pixel outside the map is 0; indices must stay bounded.
    position = (start + offset).nan_to_num(nan=-2.0).clamp(-2, size + 1)
    floor = position.floor()
    share = position - floor
    index = torch.stack([floor, floor + 1], dim=1).long()
    weight = torch.stack([1 - share, share], dim=1)
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), torch.where(inside, weight, 0.0)


# Scripted, a loop stays a loop in the graph; exporting the taps one by one would take minutes.
@torch.jit.script_if_tracing
def _sum_of_taps(pieces: Tensor, entries: Tensor, weights: Tensor, kernel: Tensor) -> Tensor:
    """Interpolate the taps, multiply each with its part of the kernel, add up, ReLU.

    Args:
        pieces: (H * W * groups, C / groups).
        entries, weights: (9, 2, 2, K, groups). They stay apart, since ONNX cannot flatten axes
            before one of length 0.
        kernel: (9, out, C).

    Returns:
        (K, out).
    """
    adapted = torch.zeros([1, 1], dtype=pieces.dtype, device=pieces.device)
    for i in range(kernel.shape[0]):
        tap = pieces[entries[i, 0, 0]] * weights[i, 0, 0].unsqueeze(-1)
        tap = tap + pieces[entries[i, 0, 1]] * weights[i, 0, 1].unsqueeze(-1)
        tap = tap + pieces[entries[i, 1, 0]] * weights[i, 1, 0].unsqueeze(-1)
        tap = tap + pieces[entries[i, 1, 1]] * weights[i, 1, 1].unsqueeze(-1)
        adapted = adapted + torch.nn.functional.linear(tap.flatten(1), kernel[i])
    return adapted.relu()
