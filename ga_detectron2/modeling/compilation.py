"""``TEST.COMPILE_BACKBONE``: ``torch.compile`` of the backbone, in inference.

Heads do not gain by it, and in training each image size would need a program of its own
(docs/benchmarks.md).
"""

import sys

from torch import nn

__all__ = ["compile_backbone", "compiler_failure"]


def compile_backbone(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the backbone of ``model`` at its first call, for images of any size.

    The names of weights do not change. A compiled model is for inference and cannot be exported.

    Args:
        model: a model with a ``backbone``, changed in place; on the device where it is to run.
        backend: backend of ``torch.compile``.
    """
    model.get_submodule("backbone").compile(backend=backend, dynamic=True)


def compiler_failure(error: BaseException) -> str | None:
    """One line about a backbone that could not be compiled at its first call.

    Args:
        error: raised by a call of the model.

    Returns:
        the reason, the key and the remedy; None for an error of another kind.
    """
    # Not imported, which takes a second: whoever raises it has loaded it.
    failures = getattr(sys.modules.get("torch._dynamo.exc"), "TorchDynamoException", ())
    if not isinstance(error, failures):
        return None
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # The compiler's own message follows a command of many lines.
    output = lines[lines.index("Output:") + 1 :] if "Output:" in lines else []
    messages = [*lines[:1], *[line for line in output if "error" in line.lower()][:1]]
    reason = ": ".join([type(cause).__name__, ", ".join(messages)[:300]])
    return (
        f"TEST.COMPILE_BACKBONE: the backbone could not be compiled ({reason}): leave the key at "
        "False, or install what is missing (on a CPU, a newer C++ compiler, which the variable CXX "
        "may name, and Python's headers; on a GPU, Triton)"
    )
