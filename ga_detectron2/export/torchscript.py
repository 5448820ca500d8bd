"""A model as TorchScript."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .tracing import make_adapter, output_names, without_tracer_warnings


def export_torchscript(model: nn.Module, image: Tensor, file: Path) -> list[str]:
    """Trace ``model`` and save it, for :func:`torch.jit.load` from Python or C++.

    Args:
        model: see :func:`make_traceable`; the file runs on the device on which it is.
        image: (C, H, W), any image that the model takes.
        file: to be written.

    Returns:
        the names of the outputs.
    """
    with torch.no_grad(), without_tracer_warnings():
        adapter = make_adapter(model, image)
        # What is traced is compared on other images and sizes by whoever exports; the tracer's own
        # check is of the same image.
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    torch.jit.save(traced, str(file))
    return output_names(adapter)
