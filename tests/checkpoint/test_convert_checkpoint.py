"""tools/convert_checkpoint.py."""

from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config
from tests.scripts import load_script

from .reference import CONFIGS, NARROW, SHAPES, make_imagenet, make_narrow

CONFIG = str(CONFIGS / "ga_retinanet_R_50.yaml")


def convert(*arguments: str) -> None:
    load_script("convert_checkpoint").main(list(arguments))


def narrow_model() -> torch.nn.Module:
    return build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *NARROW]))


@pytest.fixture
def tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    monkeypatch.chdir(tmp_path)
    tensors = make_narrow(SHAPES["ga-retinanet_r50-caffe_fpn_1x_coco"])
    torch.save({"state_dict": tensors, "meta": {}}, "in.pth")
    return tensors


def test_converted_model_loads_in_detectron2(
    tensors: dict, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    convert("in.pth", "new/out.pth", "--config-file", CONFIG, *NARROW)
    assert "309 tensors of a model, complete for" in capsys.readouterr().out
    model = narrow_model()
    DetectionCheckpointer(model).load("new/out.pth")
    found = model.state_dict()
    assert torch.equal(found["head.cls_score.weight"], tensors["bbox_head.retina_cls.weight"])
    assert torch.equal(found["backbone.top_block.p7.bias"], tensors["neck.fpn_convs.4.conv.bias"])
    convert("new/out.pth", "copy.pth")
    assert "309 tensors of a model, not checked" in capsys.readouterr().out


def test_converted_backbone_loads_in_detectron2(
    tensors: dict, capsys: pytest.CaptureFixture
) -> None:
    backbone = make_imagenet(torchvision.models.resnet50)
    torch.save(backbone, "in.pth")
    convert("in.pth", "out.pth", "--config-file", CONFIG, *NARROW)
    assert "265 tensors of a backbone" in capsys.readouterr().out
    model = narrow_model()
    DetectionCheckpointer(model).load("out.pth")
    found = model.backbone.bottom_up.state_dict()
    assert torch.equal(found["res5.2.conv3.weight"], backbone["layer4.2.conv3.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.pth", "out.pth", "--config-file", CONFIG], "error: in.pth: tensor .* has the shape"),
        (["in.pth", "out.pth", "--config-file", "no.yaml"], "error: no.yaml: "),
        (["absent.pth", "out.pth"], "error: .*absent.pth"),
        (["in.pth", "./in.pth"], "error: OUT: ./in.pth is an input"),
        (["in.pth", "out.pkl"], "must end in .pth"),
        (["ga://ga_none", "out.pth"], "error: ga://ga_none: .*'ga_none'"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    tmp_path: Path, tensors: dict, arguments: list[str], message: str
) -> None:
    before = Path("in.pth").read_bytes()
    with pytest.raises(SystemExit, match=message) as error:
        convert(*arguments)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]
    assert Path("in.pth").read_bytes() == before


def test_overrides_need_a_configuration(tensors: dict, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert("in.pth", "out.pth", "KEY", "1")
    assert "--config-file is missing" in capsys.readouterr().err
