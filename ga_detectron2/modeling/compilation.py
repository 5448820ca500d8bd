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

__all__ = ["compile_backbone", "compiler_failure"]

KEY = "TEST.COMPILE_BACKBONE"


def compile_backbone(model: nn.Module, backend: str = "inductor") -> None:
    """Have the backbone of ``model`` compiled at its first call, for images of any size.

    Names of weights stay as they are. A compiled model is for inference, and cannot be exported.

    Args:
        model: with a ``backbone``, changed in place; on the device where it is to run.
        backend: of ``torch.compile``.

    Raises:
        ValueError: nothing can be compiled here; names the key, and says what is missing.
    """
    if not hasattr(nn.Module, "compile"):
        raise ValueError(f"{KEY} needs torch 2.2 or newer: leave it at False")
    device = next(model.parameters()).device.type
    if device == "cuda" and not _has_triton():
        raise ValueError(
            f"{KEY} needs Triton for a model on a GPU, and a GPU that Triton knows (of compute "
            "capability 7.0 or newer), and there is none: install triton, or leave the key at False"
        )
    if device == "cpu":
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        missing = None
        if shutil.which(compiler) is None:
            missing = f"'{compiler}' (the variable CXX names another one)"
        elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
            missing = f"Python.h in {sysconfig.get_path('include')}"
        if missing:
            raise ValueError(
                f"{KEY} needs a C++ compiler and Python's headers for a model on the CPU, and "
                f"there is no {missing}: install it, or leave the key at False"
            )
    model.backbone.compile(backend=backend, dynamic=True)


def _has_triton() -> bool:
    """Whether programs for a GPU can be made here; True where torch does not tell."""
    try:
        from torch.utils._triton import has_triton
    except ImportError:  # It is torch's own, and may go elsewhere.
        return True
    return bool(has_triton())


def compiler_failure(error: BaseException) -> str | None:
    """One line for a user whose backbone could not be compiled at its first call.

    Args:
        error: what a call of the model raised.

    Returns:
        what failed, the key, and what to do; None for any other error.
    """
    # Not imported, which would take a second: who raises it has loaded it.
    failed = getattr(sys.modules.get("torch._dynamo.exc"), "BackendCompilerFailed", ())
    if not isinstance(error, failed):
        return None
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # The compiler's own words come below a command of many lines.
    output = lines[lines.index("Output:") + 1 :] if "Output:" in lines else []
    words = [*lines[:1], *[line for line in output if "error" in line.lower()][:1]]
    reason = ": ".join([type(cause).__name__, ", ".join(words)[:300]])
    return (
        f"{KEY}: the backbone could not be compiled ({reason}): leave the key at False, or install "
        "a newer compiler (for a model on the CPU, the variable CXX names another one)"
    )
