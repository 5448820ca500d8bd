"""Export of models as TorchScript or ONNX, and a wrapper that runs the files."""

from .comparison import Differences, compare_results
from .folder import export_folder
from .onnx import DEFAULT_OPSET, MIN_OPSET, export_onnx
from .runtime import DESCRIPTION, FILES, ExportedModel
from .torchscript import export_torchscript
from .traceable import infer, make_traceable

__all__ = [
    "DEFAULT_OPSET",
    "DESCRIPTION",
    "FILES",
    "MIN_OPSET",
    "Differences",
    "ExportedModel",
    "compare_results",
    "export_folder",
    "export_onnx",
    "export_torchscript",
    "infer",
    "make_traceable",
]
