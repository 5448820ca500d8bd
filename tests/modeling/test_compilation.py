"""TEST.COMPILE_BACKBONE: equal maps from one program for many sizes."""

import copy
import functools
import os
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from ga_detectron2.engine import load_inference_model
from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling.compilation import compile_backbone, compiler_failure

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None
    or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="needs a C++ compiler and Python's headers",
)
SIZES = [(256, 320), (384, 256), (320, 448), (512, 384)]


class OneLayer(nn.Module):
    """A backbone without a pyramid, quick to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).relu()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = OneLayer()


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counters of torch.compile, starting at 0, with nothing compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


def skip_where_nothing_compiles() -> None:
    """A compiler that inductor cannot use is no fault of this project."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(8))
    except BackendCompilerFailed:
        pytest.skip("torch.compile fails for x + 1, too")


@needs_compiler
@pytest.mark.slow
@torch.no_grad()
def test_compiled_backbone_gives_equal_maps(counters: Counter[str]) -> None:
    model = Model()
    compiled = copy.deepcopy(model)
    compile_backbone(compiled)
    images = torch.randn(2, 3, 64, 96)
    expected = model.backbone(images)
    try:
        found = compiled.backbone(images)
    except BackendCompilerFailed:
        skip_where_nothing_compiles()
        raise
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert counters["unique_graphs"] == 1


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["ga_rpn_R_50", "ga_retinanet_R_50"])
def test_one_program_serves_all_sizes(
    name: str, counters: Counter[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole backbone as one graph; without C++, which would take a minute for a ResNet."""
    without_cpp = functools.partial(compile_backbone, backend="aot_eager")
    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", without_cpp)
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    model = load_inference_model(cfg)
    assert not counters["unique_graphs"]
    cfg.TEST.COMPILE_BACKBONE = True
    compiled = load_inference_model(cfg)
    assert list(compiled.state_dict()) == list(model.state_dict())
    for size in SIZES:
        images = torch.randn(1, 3, *size)
        maps = [m.backbone(images) for m in (model, compiled)]
        torch.testing.assert_close(maps[1], maps[0], atol=1e-4, rtol=1e-4)
    # A program for each size would be four; sides of odd numbers of cells may take their own.
    assert 1 <= counters["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_weights_of_a_compiled_model_are_plain(tmp_path: Path) -> None:
    model = Model()
    before = copy.deepcopy(model.state_dict())
    compile_backbone(model, backend="aot_eager")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    loaded = torch.load(tmp_path / "weights.pth", weights_only=True)
    Model().load_state_dict(loaded)
    assert all(torch.equal(loaded[k], v) for k, v in before.items())


def test_compiler_failure_is_one_line() -> None:
    def old_compiler(_graph: object, _inputs: object) -> None:
        raise OSError("C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\nIn a file\nerror: old")

    with pytest.raises(BackendCompilerFailed) as caught:
        torch.compile(lambda x: x + 1, backend=old_compiler)(torch.ones(8))
    line = compiler_failure(caught.value)
    assert line is not None
    assert line.startswith("TEST.COMPILE_BACKBONE: the backbone could not be compiled (OSError: ")
    assert "C++ compile error, error: old): leave the key at False" in line
    assert "\n" not in line
    assert compiler_failure(RuntimeError("backend='inductor' raised")) is None
