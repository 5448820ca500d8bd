"""Small models, and what exporting them gave."""

import pytest
from detectron2.config import CfgNode
from torch import nn

from ga_detectron2.export import ExportedModel, export_folder
from tests.export.models import FAMILIES, make_model, noise


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def built(request: pytest.FixtureRequest) -> tuple[CfgNode, nn.Module]:
    return make_model(request.param)


@pytest.fixture(
    scope="session", params=["torchscript", pytest.param("onnx", marks=pytest.mark.slow)]
)
def exported(
    request: pytest.FixtureRequest,
    built: tuple[CfgNode, nn.Module],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CfgNode, nn.Module, ExportedModel]:
    cfg, model = built
    folder = tmp_path_factory.mktemp("exported")
    export_folder(cfg, model, noise(96, 128, seed=1), folder, request.param)
    return cfg, model, ExportedModel(folder)
