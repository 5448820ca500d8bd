"""Exported models in Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .tracing import INPUT_NAME

DESCRIPTION = "model.json"
FILES = {"torchscript": "model.ts", "onnx": "model.onnx"}


class ExportedModel:
    """A model from a folder of ``tools/export_model.py``, called like a detectron2 model."""

    def __init__(self, folder: str | Path):
        """
        Args:
            folder: folder of the model and its ``model.json``.

        Raises:
            OSError: a file is missing.
            ModuleNotFoundError: the model is ONNX and onnxruntime is not installed.
        """
        folder = Path(folder)
        self.description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self._names = self.description["outputs"]
        load = {"torchscript": _load_torchscript, "onnx": _load_onnx}[self.description["format"]]
        self._run = load(folder / self.description["file"])

    def infer(self, image: Tensor) -> Instances:
        """Results for an image (C, H, W) float32, in pixels of that image."""
        fields = dict(zip(self._names, self._run(image), strict=True))
        height, width = fields.pop("image_size").tolist()
        return Instances(
            (height, width),
            **{k: Boxes(v) if k.endswith("_boxes") else v for k, v in fields.items()},
        )

    def __call__(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Results in pixels of ``"height"`` and ``"width"``, as from a detectron2 model."""
        results = []
        for x in batched_inputs:
            found = self.infer(x["image"].float())
            height, width = (
                x.get(k, n) for k, n in zip(("height", "width"), found.image_size, strict=True)
            )
            key = "proposals" if found.has("proposal_boxes") else "instances"
            results.append({key: detector_postprocess(found, height, width)})
        return results


def _load_torchscript(file: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    model = torch.jit.load(str(file))

    def run(image: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return model(image)

    return run


def _load_onnx(file: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> tuple[Tensor, ...]:
        outputs = session.run(None, {INPUT_NAME: image.numpy()})
        return tuple(torch.from_numpy(x) for x in outputs)

    return run
