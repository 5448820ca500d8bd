"""Weighted sums of a table's rows, with a fast gradient on a CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
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
    if not torch.is_grad_enabled():
        return _sums(table, entries, weights)
    if not table.requires_grad:
        # embedding_bag has no gradient for its weights where the table needs none (frozen layers).
        table = table.detach().requires_grad_(weights.requires_grad)
    elif not table.is_cuda:
        return _WeightedSums.apply(table, entries, weights)
    return _sums(table, entries, weights)


def _sums(table: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(entries, table, per_sample_weights=weights, mode="sum")


class _WeightedSums(Function):
    """The gradient of the table is itself a set of weighted sums, one for each row.

    PyTorch adds the entries to it one by one, in more than twice the time.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, entries: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(entries, weights)
        ctx.rows = table.shape[0]
        if not ctx.needs_input_grad[2]:
            return _sums(table, entries, weights)
        # PyTorch's own gradient of the weights is fast.
        with torch.enable_grad():
            leaf = weights.detach().requires_grad_()
            sums = _sums(table.detach().requires_grad_(), entries, leaf)
        ctx.sums = sums, leaf
        return sums.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        entries, weights = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_table = of_weights = None
        if ctx.needs_input_grad[0]:
            in_order, order = entries.flatten().sort()
            rows = torch.arange(ctx.rows, dtype=entries.dtype)
            of_table = F.embedding_bag(
                (order // entries.shape[1]).to(entries.dtype),
                gradient,
                torch.searchsorted(in_order, rows, out_int32=True),
                per_sample_weights=weights.detach().flatten()[order],
                mode="sum",
            )
        if ctx.needs_input_grad[2]:
            sums, leaf = ctx.sums
            (of_weights,) = torch.autograd.grad(sums, leaf, gradient, retain_graph=True)
        return of_table, None, of_weights
