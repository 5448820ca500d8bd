"""Small models, and what exporting them gave."""

import pytest
from detectron2.config import CfgNode
from torch import nn

from ga_detectron2.export import ExportedModel, export_folder
from tests.export.models import FAMILIES, make_model, noise


# One parameter, so that each model is exported once, in whatever order pytest takes the tests.
@pytest.fixture(
    scope="session",
    params=[
        *[pytest.param((x, "torchscript"), id=f"torchscript-{x}") for x in FAMILIES],
        *[pytest.param((x, "onnx"), id=f"onnx-{x}", marks=pytest.mark.slow) for x in FAMILIES],
    ],
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CfgNode, nn.Module, ExportedModel]:
    family, file_format = request.param
    if file_format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    cfg, model = make_model(family)
    folder = tmp_path_factory.mktemp("exported")
    export_folder(cfg, model, noise(96, 128, seed=1), folder, file_format)
    return cfg, model, ExportedModel(folder)
