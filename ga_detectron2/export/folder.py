"""The folder of an exported model: the model and a description of inputs and outputs."""

import json
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from .onnx import DEFAULT_OPSET, export_onnx
from .runtime import DESCRIPTION, FILES
from .torchscript import export_torchscript
from .tracing import INPUT_NAME


def export_folder(
    cfg: CfgNode,
    model: nn.Module,
    image: Tensor,
    folder: str | Path,
    file_format: str,
    opset: int = DEFAULT_OPSET,
) -> Path:
    """Write ``model.ts`` or ``model.onnx``, and ``model.json`` beside it.

    Args:
        cfg: configuration of the model.
        model: see :func:`make_traceable`.
        image: (C, H, W), any image that the model takes.
        folder: created if it does not exist.
        file_format: "torchscript" or "onnx".
        opset: ONNX opset version.

    Returns:
        the path of the model.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILES[file_format]
    if file_format == "onnx":
        outputs = export_onnx(model, image, file, opset)
    else:
        outputs = export_torchscript(model, image, file)
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
    description = {
        "format": file_format,
        "file": file.name,
        "weights": cfg.MODEL.WEIGHTS,
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "input": {
            "name": INPUT_NAME,
            "layout": "CHW",
            "dtype": "float32",
            "channels": cfg.INPUT.FORMAT,
            "range": [0, 255],
            "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
            "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        },
        "outputs": outputs,
        "boxes": "x1, y1, x2, y2 in pixels of the input",
        "classes": names.get("thing_classes") if names else None,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return file
