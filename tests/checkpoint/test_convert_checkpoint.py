"""tools/convert_checkpoint.py as a user calls it."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config

from .reference import CONFIGS, NARROW, SHAPES, make_narrow

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
CONFIG = str(CONFIGS / "ga_retinanet_R_50.yaml")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the script; return what it prints, or raise SystemExit."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def tensors(tmp_path):
    tensors = make_narrow(SHAPES["ga-retinanet_r50-caffe_fpn_1x_coco"])
    torch.save({"state_dict": tensors, "meta": {}}, tmp_path / "in.pth")
    return tensors


def test_converts_and_checks(call, tmp_path, tensors):
    said = call("in.pth", "out.pth", "--config-file", CONFIG, *NARROW)
    assert said == f"out.pth: 309 tensors of a model, complete for {CONFIG}\n"
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", *NARROW])
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "out.pth"))
    found = model.state_dict()
    assert torch.equal(found["head.cls_score.weight"], tensors["bbox_head.retina_cls.weight"])
    assert torch.equal(found["backbone.top_block.p7.bias"], tensors["neck.fpn_convs.4.conv.bias"])


def test_converts_without_a_configuration(call, tensors):
    assert "309 tensors of a model, not checked" in call("in.pth", "out.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.pth", "out.pth", "--config-file", CONFIG], "error: in.pth: tensor .* has the shape"),
        (["in.pth", "out.pth", "--config-file", "no.yaml"], "error: no.yaml: "),
        (["in.pth", "out.pth", "--config-file", CONFIG, "MODEL.NONE", "1"], "error: .*NONE"),
        (["absent.pth", "out.pth"], "error: .*absent.pth"),
        (["in.pth", "in.pth/out.pth"], "error: OUT: in.pth/out.pth .*in.pth is a file"),
        (["in.pth", "out.pkl"], "must end in .pth"),
        (["ga://ga_none", "out.pth"], "error: ga://ga_none: .*'ga_none'"),
    ],
)
def test_says_in_one_line_what_is_wrong(call, tmp_path, tensors, arguments, message):
    with pytest.raises(SystemExit, match=message) as e:
        call(*arguments)
    assert "\n" not in str(e.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.pth"]


def test_arguments_that_make_no_sense(call, tensors, capsys):
    for arguments in (["in.pth"], ["in.pth", "out.pth", "KEY", "1"]):
        with pytest.raises(SystemExit, match="2"):
            call(*arguments)
    assert "--config-file is missing" in capsys.readouterr().err
