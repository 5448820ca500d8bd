"""TEST.COMPILE_BACKBONE: equal maps from one program for many sizes."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch._dynamo.exc import BackendCompilerFailed

from ga_detectron2.engine import load_inference_model
from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling.compilation import compile_backbone, compiler_failure


@pytest.mark.slow
@torch.no_grad()
def test_one_program_serves_all_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole backbone as one graph; without C++, which would take a minute for a ResNet."""
    without_cpp = functools.partial(compile_backbone, backend="aot_eager")
    monkeypatch.setattr("ga_detectron2.engine.inference_model.compile_backbone", without_cpp)
    cfg = get_config("ga_retinanet_R_50")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model = load_inference_model(cfg)
    assert not counters["stats"]
    cfg.TEST.COMPILE_BACKBONE = True
    compiled = load_inference_model(cfg)
    weights = model.state_dict()
    assert list(compiled.state_dict()) == list(weights)
    assert all(torch.equal(weights[k], x) for k, x in compiled.state_dict().items())
    for size in ((256, 320), (384, 256), (320, 448)):
        images = torch.randn(1, 3, *size)
        maps = [m.backbone(images) for m in (model, compiled)]
        torch.testing.assert_close(maps[1], maps[0], atol=1e-4, rtol=1e-4)
    # A program for each size would be three; sides of odd numbers of cells may take their own.
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]
    torch._dynamo.reset()


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
