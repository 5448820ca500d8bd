"""Gradient clipping by the norm over the whole model, in detectron2's solver.

Importing this module makes ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE: full_model`` valid in
``detectron2.solver.build_optimizer`` and ``maybe_add_gradient_clipping``. Other types stay as they
are.
"""

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build as solver

__all__ = ["FULL_MODEL", "FullModelClipper", "clipped_sgd"]

FULL_MODEL = "full_model"
"""The ``CLIP_TYPE``. detectron2's "norm" clips the gradient of each parameter by itself."""


class FullModelClipper:
    """Scales all gradients together so that their common norm is at most ``max_norm``."""

    def __init__(self, max_norm: float, norm_type: float = 2.0):
        self.max_norm = max_norm
        self.norm_type = norm_type

    def __call__(self, parameters: Iterable[torch.Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(list(parameters), self.max_norm, self.norm_type)


def clipped_sgd(
    params: Any, max_norm: float, norm_type: float = 2.0, **kwargs: Any
) -> torch.optim.SGD:
    """``torch.optim.SGD`` with :class:`FullModelClipper`, for lazy configs.

    Args:
        params, kwargs: arguments of ``torch.optim.SGD``.
        max_norm, norm_type: arguments of :class:`FullModelClipper`.
    """
    sgd = _generate_class(torch.optim.SGD, global_clipper=FullModelClipper(max_norm, norm_type))
    return sgd(params, **kwargs)


# The functions that detectron2's maybe_add_gradient_clipping calls are replaced, not that function
# itself, which others may have imported before.
_create_clipper = solver._create_gradient_clipper
_generate_class = solver._generate_optimizer_class_with_gradient_clipping


def _create_gradient_clipper(cfg: CfgNode) -> Any:
    if cfg.CLIP_TYPE == FULL_MODEL:
        return FullModelClipper(cfg.CLIP_VALUE, cfg.NORM_TYPE)
    return _create_clipper(cfg)


def _generate_optimizer_class(
    optimizer: type[torch.optim.Optimizer],
    *,
    per_param_clipper: Any = None,
    global_clipper: Any = None,
) -> type[torch.optim.Optimizer]:
    if isinstance(per_param_clipper, FullModelClipper):
        per_param_clipper, global_clipper = None, per_param_clipper
    return _generate_class(
        optimizer, per_param_clipper=per_param_clipper, global_clipper=global_clipper
    )


solver._create_gradient_clipper = _create_gradient_clipper
solver._generate_optimizer_class_with_gradient_clipping = _generate_optimizer_class
