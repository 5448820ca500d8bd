"""``TEST.COMPILE_BACKBONE``: ``torch.compile`` where it pays, of the backbone in inference.

Heads gain nothing by it, post-processing comes apart into dozens of graphs, and in training every
size of images has a program of its own (docs/benchmarks.md), so all that stays as it is.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from torch import nn

__all__ = ["compile_backbone"]


def compile_backbone(model: nn.Module, backend: str = "inductor") -> None:
    """Have the backbone of ``model`` compiled at its first call, for images of any size.

    Names of weights stay as they are. A compiled model is for inference, and cannot be exported.

    Args:
        model: with a ``backbone``, changed in place; on the device where it is to run.
        backend: of ``torch.compile``.

    Raises:
        ValueError: nothing can be compiled here; names the key, and says what is missing.
    """
    key = "TEST.COMPILE_BACKBONE"
    if not hasattr(nn.Module, "compile"):
        raise ValueError(f"{key} needs torch 2.2 or newer: leave it at False")
    if next(model.parameters()).device.type == "cpu":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        missing = None
        if shutil.which(compiler) is None:
            missing = f"'{compiler}' (the variable CXX names another one)"
        elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
            missing = f"Python.h in {sysconfig.get_path('include')}"
        if missing:
            raise ValueError(
                f"{key} needs a C++ compiler and Python's headers for a model on the CPU, and "
                f"there is no {missing}: install it, or leave the key at False"
            )
    model.backbone.compile(backend=backend, dynamic=True)
