"""detectron2's optimizer, with gradients clipped by their norm over the whole model."""

from typing import Any

import torch
from detectron2 import solver
from detectron2.config import CfgNode

FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Like :func:`detectron2.solver.build_optimizer`, with one more type of gradient clipping.

    With ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` "full_model", the gradients of all parameters together
    are scaled to a norm (``NORM_TYPE``) of at most ``CLIP_VALUE``, as the published models were
    trained; detectron2's "norm" does so for each parameter alone.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != FULL_MODEL:
        return solver.build_optimizer(cfg, model)
    unclipped = cfg.clone()
    unclipped.defrost()
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = solver.build_optimizer(unclipped, model)
    clip_full_model(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
    return optimizer


def clip_full_model(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> None:
    """Make every ``optimizer.step()`` begin with clipping all its gradients together.

    Mixed precision needs nothing more: a ``GradScaler`` takes its scale off the gradients before
    it calls ``step()``, and does not call it where a gradient is not finite.

    Args:
        optimizer: of any kind.
        max_norm: the largest norm left.
        norm_type: the p of the p-norm.
    """

    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
