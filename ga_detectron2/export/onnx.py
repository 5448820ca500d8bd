"""A model as ONNX."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .tracing import INPUT_NAME, make_adapter, output_names, without_tracer_warnings

MIN_OPSET = 16
"""First version with detectron2's ROIAlign."""
DEFAULT_OPSET = 17


def export_onnx(
    model: nn.Module, image: Tensor, file: Path, opset: int = DEFAULT_OPSET
) -> list[str]:
    """Write a model as ONNX. Height and width of the input and the number of results are dynamic.

    Args:
        model: see :func:`make_traceable`.
        image: (C, H, W), any image that the model takes.
        file: path of the new file.
        opset: ONNX opset version, at least ``MIN_OPSET``.

    Returns:
        names of the outputs.

    Raises:
        ValueError: the model has a keypoint head.
    """
    if getattr(getattr(model, "roi_heads", None), "keypoint_on", False):
        raise ValueError(
            "models with keypoints (MODEL.KEYPOINT_ON) cannot be exported as onnx: torch.onnx does "
            "not support detectron2's step from heat maps to keypoints; use torchscript"
        )
    # The exporter for which detectron2 was written, where torch has two of them.
    has_two = "dynamo" in inspect.signature(torch.onnx.export).parameters
    options: dict[str, Any] = {"dynamo": False} if has_two else {}
    with torch.no_grad(), without_tracer_warnings():
        adapter = make_adapter(model, image)
        names = output_names(adapter)
        torch.onnx.export(
            adapter,
            adapter.flattened_inputs,
            str(file),
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=names,
            dynamic_axes={
                INPUT_NAME: {1: "height", 2: "width"},
                **{name: {0: "results"} for name in names if name != "image_size"},
            },
            **options,
        )
    return names
