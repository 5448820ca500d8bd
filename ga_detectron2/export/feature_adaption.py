"""Feature adaption at some cells, in a form that a traced graph holds.

PyTorch's own graph has ``embedding_bag``, by which :class:`FeatureAdaption` gathers; ONNX has it
not. There, taps are gathered one after the other by plain indices, and each is multiplied with its
part of the kernel at once: a tap of all cells is all that is in memory, and ONNX Runtime's CPU
takes a third of the time that its GridSample would.
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
    """What :meth:`FeatureAdaption.at_cells` computes, by operators that the export has.

    Args:
        adaption: with the weights.
        features: of one image.
        cells: (K,) int64 into the H * W cells of the map.
        shape_deltas: (K, 2), the shape outputs of these cells.

    Returns:
        (K, C).
    """
    if torch.onnx.is_in_onnx_export():
        return adapt_cells_by_indices(adaption, features, cells, shape_deltas)
    # Not at_cells: a trace would have as many chunks as there were cells when it was made.
    return adaption.project(adaption.gather_taps(features, cells, shape_deltas))


def adapt_cells_by_indices(
    adaption: FeatureAdaption, features: FeatureRows, cells: Tensor, shape_deltas: Tensor
) -> Tensor:
    """As :func:`adapt_cells`, with nothing but indices, products and sums."""
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
    # Pieces of one group at one cell, groups within cells; four of them make a moved tap.
    pieces = rows.reshape(-1, rows.shape[-1] // groups)
    entries = (y[:, :, None] * width + x[:, None]) * groups + group
    weights = y_weight[:, :, None] * x_weight[:, None]
    kernel = adaption.conv.weight.unflatten(1, (groups, -1)).flatten(3).permute(3, 0, 1, 2)
    return _sum_of_taps(pieces, entries, weights, kernel.flatten(2))


def _between(start: Tensor, offset: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two rows (or columns) between which a moved tap lies.

    Args:
        start: (9, K, 1) int64, where the taps are before they are moved.
        offset: (9, K, groups), by how much they are moved.
        size: number of rows (or columns) of the map.

    Returns:
        (9, 2, K, groups) int64 indices, and their weights, which are 0 outside the map.
    """
    # Beyond one pixel outside the map there is nothing, and no index may grow without bound.
    position = (start + offset).nan_to_num(nan=-2.0).clamp(-2, size + 1)
    floor = position.floor()
    share = position - floor
    index = torch.stack([floor, floor + 1], dim=1).long()
    weight = torch.stack([1 - share, share], dim=1)
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), torch.where(inside, weight, 0.0)


# Scripted, a loop remains a loop in the graph: an export of all taps, one after the other, would
# take minutes.
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
