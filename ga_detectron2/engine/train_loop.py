"""detectron2's training steps, with an error that names a loss that is not finite."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm


class FiniteLosses:
    """Mix-in for ``SimpleTrainer`` whose error names the loss that is not finite.

    detectron2 raises FloatingPointError for the total on the main process. Here every process also
    checks its own losses, before the weights are updated. All losses are transferred to the host
    together, whereas detectron2 transfers them one by one.
    """

    iter: int
    gather_metric_period: int

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,  # noqa: A002 - detectron2's name
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period:
            return
        values = losses_on_host(loss_dict)
        bad = {name: v.item() for name, v in values.items() if not math.isfinite(v)}
        error = None
        try:
            # First even if a loss is not finite: the other processes wait in its gather.
            super()._write_metrics(values, data_time, prefix, iter)  # type: ignore[misc]
        except FloatingPointError as e:
            error = e
        if bad:
            names = ", ".join(f"{name} is {value}" for name, value in bad.items())
            where = f" of process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
            raise FloatingPointError(
                f"Loss is not finite at iteration {iteration}{where}: {names}. A lower "
                "SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS or a lower "
                "SOLVER.CLIP_GRADIENTS.CLIP_VALUE may help"
            ) from error
        if error is not None:
            # A loss of another process, or a total that overflows.
            raise FloatingPointError(" ".join(str(error).split())) from error


def losses_on_host(loss_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Transfer scalar losses to the CPU together.

    Args:
        loss_dict: tensors of one element and any floating type, on one device.

    Returns:
        scalars in float64, by name.
    """
    values = torch.stack([v.detach().double().reshape(()) for v in loss_dict.values()]).cpu()
    return dict(zip(loss_dict, values, strict=True))


class GASimpleTrainer(FiniteLosses, SimpleTrainer):
    """:class:`SimpleTrainer` with :class:`FiniteLosses`."""


class GAAMPTrainer(FiniteLosses, AMPTrainer):
    """:class:`AMPTrainer` with :class:`FiniteLosses`."""


def build_step(cfg: Any, *args: Any) -> SimpleTrainer:
    """Trainer of single steps, in mixed precision if ``SOLVER.AMP.ENABLED``."""
    return (GAAMPTrainer if cfg.SOLVER.AMP.ENABLED else GASimpleTrainer)(*args)
