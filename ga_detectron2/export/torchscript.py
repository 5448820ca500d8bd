"""A model as TorchScript."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .tracing import make_adapter, output_names, without_tracer_warnings


def export_torchscript(model: nn.Module, image: Tensor, file: Path) -> list[str]:
    """Write a model as TorchScript, for :func:`torch.jit.load` from Python or C++.

    Args:
        model: see :func:`make_traceable`; the file runs on the same device.
        image: (C, H, W), any image that the model takes.
        file: path of the new file.

    Returns:
        names of the outputs.
    """
    with torch.no_grad(), without_tracer_warnings():
        adapter = make_adapter(model, image)
        # The tracer's own check would use the same image again; tests compare other sizes.
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    torch.jit.save(traced, str(file))
    return output_names(adapter)
