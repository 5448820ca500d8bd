"""Weighted sums of a table's rows, with a fast gradient on a CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def weighted_sums(table: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
    """``embedding_bag`` of bags of equal size, differentiable in ``table`` and ``weights``.

    Args:
        table: (R, C).
        entries: (K, B) int32 into R, a bag in each row.
        weights: (K, B), of the table's dtype.

    Returns:
        (K, C), for each bag the sum of its entries times their weights.
    """
    on_cpu = table.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and not torch.jit.is_tracing():
        return _WeightedSums.apply(table, entries, weights)
    if weights.requires_grad and not table.requires_grad:
        # embedding_bag has no gradient for its weights where the table needs none (frozen layers).
        table = table.detach().requires_grad_()
    return _sums(table, entries, weights)


def _sums(table: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(entries, table, per_sample_weights=weights, mode="sum")


class _WeightedSums(Function):
    """The gradient of the table is itself a set of weighted sums, one for each row.

    PyTorch adds the entries to it one by one, which takes several times as long where rows have
    many entries, as in the adaption of every cell.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, entries, weights)
        return _sums(table, entries, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        table, entries, weights = ctx.saved_tensors
        gradient, flat, size = gradient.contiguous(), entries.flatten(), entries.shape[1]
        of_table = of_weights = None
        if ctx.needs_input_grad[0]:
            in_order, order = flat.sort()
            rows = torch.arange(table.shape[0], dtype=flat.dtype)
            of_table = F.embedding_bag(
                (order // size).to(flat.dtype),
                gradient,
                torch.searchsorted(in_order, rows, out_int32=True),
                per_sample_weights=weights.flatten()[order],
                mode="sum",
            )
        if ctx.needs_input_grad[2]:
            # embedding_bag's own gradient of the weights is fast.
            offsets = torch.arange(0, flat.shape[0], size, dtype=flat.dtype)
            of_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, table, flat, offsets, offsets.new_empty(0), 0
            ).view_as(weights)
        return of_table, None, of_weights
