"""Averaging of the gradients of several processes in a fixed order."""

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

__all__ = ["add_in_order_of_rank"]


def add_in_order_of_rank(model: DistributedDataParallel) -> None:
    """Make ``model`` average gradients in the order of processes.

    From three processes on, the order in which an all-reduce adds depends on where a gradient lies
    in its bucket. DistributedDataParallel fills its buckets again after the first step of a
    process, so that a step after a resume would be rounded differently from the same step without.
    Here each process gathers the gradients of all others and adds them from the first to the last.

    Args:
        model: model on a CPU. A process holds as many copies of a bucket as there are processes.
    """
    model.register_comm_hook(model.process_group, _average)


def _average(
    group: distributed.ProcessGroup, bucket: distributed.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(group.size())]

    def average(_gathered: torch.futures.Future) -> torch.Tensor:
        total = parts[0]
        for part in parts[1:]:
            total += part
        return own.copy_(total.div_(group.size()))

    gathering = distributed.all_gather(parts, own, group=group, async_op=True)
    return gathering.get_future().then(average)
