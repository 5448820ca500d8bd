"""A model as ONNX."""

import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from .tracing import INPUT_NAME, make_adapter, output_names, without_tracer_warnings

# The first with RoiAlign as detectron2 has it is 16.
DEFAULT_OPSET = 17


def export_onnx(
    model: nn.Module, image: Tensor, file: Path, opset: int = DEFAULT_OPSET
) -> list[str]:
    """Write ``model`` as ONNX. Height and width of its input are free, as are numbers of results.

    Args:
        model: see :func:`make_traceable`.
        image: (C, H, W), any image that the model takes.
        file: to be written.
        opset: of the ONNX operators, at least 16.

    Returns:
        the names of the outputs.

    Raises:
        ValueError: a model with a head for keypoints.
    """
    if getattr(getattr(model, "roi_heads", None), "keypoint_on", False):
        raise ValueError(
            "models with keypoints (MODEL.KEYPOINT_ON) cannot be exported as onnx: torch.onnx does "
            "not take what detectron2 makes keypoints of heat maps with; torchscript can hold it"
        )
    # Newer versions of torch have a second exporter, for which detectron2 was not written.
    has_two = "dynamo" in inspect.signature(torch.onnx.export).parameters
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
            **({"dynamo": False} if has_two else {}),
        )
    return names
