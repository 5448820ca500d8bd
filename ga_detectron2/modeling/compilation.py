"""``torch.compile`` of the backbone, which is where it pays: ``MODEL.BACKBONE.COMPILE``.

Heads gain nothing by it, and targets and post-processing come apart into dozens of graphs
(docs/benchmarks.md), so the rest of a model stays as it is.
"""

import os
import shutil
import sys

from torch import nn

__all__ = ["compile_backbone"]


def compile_backbone(
    model: nn.Module, key: str = "MODEL.BACKBONE.COMPILE", backend: str = "inductor"
) -> None:
    """Have the residual network of ``model`` compiled at its first call.

    One program is made for all sizes of images, another for training. Names of weights stay as
    they are, so that checkpoints go between compiled models and others. The few layers of a feature
    pyramid are left out: with sizes that vary, inductor of torch 2.3 writes C++ for them that no
    compiler takes.

    Args:
        model: with a ``backbone``, changed in place; on the device where it is to run.
        key: of a configuration, for errors.
        backend: of ``torch.compile``.

    Raises:
        ValueError: nothing can be compiled here; names the key, and says what is missing.
    """
    if not hasattr(nn.Module, "compile"):
        raise ValueError(f"{key} needs torch 2.2 or newer: leave it at False")
    if backend == "inductor" and next(model.parameters()).device.type == "cpu":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if shutil.which(compiler) is None:
            raise ValueError(
                f"{key} needs a C++ compiler for a model on the CPU, and there is no '{compiler}': "
                "install it, name another one in the variable CXX, or leave the key at False"
            )
    backbone = model.backbone
    getattr(backbone, "bottom_up", backbone).compile(backend=backend, dynamic=True)
