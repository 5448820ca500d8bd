"""Files of all kinds in a GA-RPN with a ResNet-50, with an eighth of the usual channels."""

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import Tensor, nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import load_config
from ga_detectron2.errors import CheckpointError
from tests.scripts import load_script

from .reference import CONFIGS, NARROW, SHAPES, make_imagenet, make_narrow

QUICK = [*NARROW, "MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
LOC = "proposal_generator.rpn_head.anchor_loc.weight"
LAST = "backbone.bottom_up.res5.2.conv3.weight"
ANOTHER_MODEL = (
    r"there is no tensor for 'backbone\.fpn_lateral2\.weight' \('neck.* in MMDetection\) of this "
    r"model \(and \d+ more do not fit\); these weights belong to another model\. Use the config"
)


def build(*overrides: str, name: str = "ga_rpn_R_50") -> nn.Module:
    return build_model(load_config(str(CONFIGS / f"{name}.yaml"), [*QUICK, *overrides]))


@pytest.fixture(scope="module")
def built_once() -> nn.Module:
    return build()


@pytest.fixture
def model(built_once: nn.Module) -> nn.Module:
    """A model in which every tensor is 7."""
    for tensor in built_once.state_dict().values():
        tensor.fill_(7)
    return built_once


@pytest.fixture(scope="module")
def mmdet_tensors() -> dict[str, Tensor]:
    return make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])


@pytest.fixture(scope="module")
def imagenet_tensors() -> dict[str, Tensor]:
    return make_imagenet(torchvision.models.resnet50)


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The weights of a narrow model of a configuration, as a training writes them."""
    folder = tmp_path_factory.mktemp("weights")

    def write(name: str) -> str:
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.save({"model": build(name=name).state_dict(), "iteration": 9}, path)
        return str(path)

    return write


def save(folder: Path, content: Any) -> str:
    torch.save(content, folder / "file.pth")
    return str(folder / "file.pth")


def untouched(model: nn.Module) -> set[str]:
    return {k for k, v in model.state_dict().items() if (v == 7).all()}


def heads(model: nn.Module) -> set[str]:
    return {k for k in model.state_dict() if k.startswith(("proposal_generator.", "backbone.fpn"))}


def without(tensors: dict, name: str) -> dict:
    return {k: v for k, v in tensors.items() if k != name}


# -- MMDetection's models --------------------------------------------------------------------------


def test_mmdetection_model(tmp_path: Path, model: nn.Module, mmdet_tensors: dict) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.125)
    foreign = {"state": {}, "param_groups": [{"lr": 99.0, "params": [0]}]}
    content = {"state_dict": mmdet_tensors, "meta": {}, "optimizer": foreign}
    checkpointer = GACheckpointer(model, optimizer=optimizer, complete=True)
    assert checkpointer.load(save(tmp_path, content)) == {}
    assert untouched(model) == set()
    state = model.state_dict()
    assert torch.equal(state[LOC], mmdet_tensors["rpn_head.conv_loc.weight"])
    assert torch.equal(state[LAST], mmdet_tensors["backbone.layer4.2.conv3.weight"])
    total = sum(v.double().sum() for k, v in mmdet_tensors.items() if not k.endswith("tracked"))
    assert sum(v.double().sum() for v in state.values()) == pytest.approx(total.item())
    assert optimizer.param_groups[0]["lr"] == 0.125, "the optimizer is of another model"


# -- Backbones trained on ImageNet -----------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_torchvision_backbone(
    tmp_path: Path,
    model: nn.Module,
    imagenet_tensors: dict,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = {
        prefix + k: v for k, v in imagenet_tensors.items() if not (prefix and k.startswith("fc."))
    }
    with caplog.at_level(logging.WARNING):
        assert GACheckpointer(model).load(save(tmp_path, tensors)) == {}
    assert untouched(model) == heads(model)
    assert torch.equal(model.state_dict()[LAST], imagenet_tensors["layer4.2.conv3.weight"])
    assert "rpn_head.anchor_loc" in caplog.text


def test_backbone_without_pyramid(tmp_path: Path, imagenet_tensors: dict) -> None:
    model = build(
        *("MODEL.BACKBONE.NAME", "build_resnet_backbone"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res4']"),
        *("MODEL.RPN.IN_FEATURES", "['res4']"),
    )
    GACheckpointer(model).load(save(tmp_path, imagenet_tensors))
    found = model.state_dict()["backbone.res4.5.conv3.weight"]
    assert torch.equal(found, imagenet_tensors["layer3.5.conv3.weight"])


@pytest.mark.parametrize("address", ["detectron2://", "catalog://"])
def test_detectron2_pickle(
    tmp_path: Path,
    model: nn.Module,
    imagenet_tensors: dict,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the addresses under which detectron2 caches such files."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    folder = {"detectron2://": "detectron2", "catalog://": "detectron"}[address]
    path = tmp_path / folder / "ImageNetPretrained" / "MSRA" / "R-50.pkl"
    path.parent.mkdir(parents=True)

    def place(name: str) -> tuple:
        layer, block, rest = (
            [*name.split(".", 2), ""][:3] if name[:5] == "layer" else ("", "", name)
        )
        return (layer, int(block or 0), "downsample" not in rest)

    kept = [k for k in imagenet_tensors if not k.startswith("fc.") and not k.endswith("tracked")]
    # Both list their tensors in the order of computation, except for the shortcut.
    theirs = [imagenet_tensors[k].numpy() for k in sorted(kept, key=place)]
    arrays = dict(zip(model.backbone.bottom_up.state_dict(), theirs, strict=True))
    # The published file has the bias of a convolution that has none in the model.
    arrays["stem.conv1.bias"] = np.zeros(8)
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, 2))
    name = f"{address}ImageNetPretrained/MSRA/R-50" + (".pkl" if address != "catalog://" else "")
    GACheckpointer(model).load(name)
    assert untouched(model) == heads(model)
    assert torch.equal(model.state_dict()[LAST], imagenet_tensors["layer4.2.conv3.weight"])


# -- Foreign files that do not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        (
            "mmdet",
            lambda t: without(t, "rpn_head.conv_loc.weight"),
            rf"no tensor for '{LOC}' \('rpn_head.conv_loc.weight' or 'bbox_head.conv_loc.weight' "
            "in MMDetection\\) of this model",
        ),
        (
            "mmdet",
            lambda t: t | {"rpn_head.conv_loc.weight": torch.zeros(2, 32, 1, 1)},
            rf"tensor '{LOC}' has the shape \(2, 32, 1, 1\), but in this model \(1, 32, 1, 1\);",
        ),
        (
            "mmdet",
            lambda t: t | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(81)},
            r"'roi_heads.box_predictor.cls_score.bias' has no place in this model;",
        ),
        (
            "mmdet",
            lambda t: {k: v for k, v in t.items() if k.startswith("rpn_head.")},
            r"no tensor for 'backbone.*' .* \(and \d+ more do not fit\);",
        ),
        ("mmdet", lambda t: {"fc.weight": torch.zeros(1)}, "holds no tensor that a model needs"),
        (
            "imagenet",
            lambda t: without(t, "bn1.bias"),
            "no tensor for 'backbone.bottom_up.stem.conv1.norm.bias'",
        ),
        (
            "imagenet",
            lambda t: t | {"layer1.0.conv2.weight": torch.zeros(8, 4, 3, 3)},
            "no tensor for 'backbone.bottom_up.res2.0.conv2.weight'",
        ),
        (
            "imagenet",
            lambda t: make_imagenet(torchvision.models.resnet101),
            "'res4.10.conv1.norm.bias' has no place in this model",
        ),
    ],
)
def test_foreign_file_that_does_not_fit(
    tmp_path: Path,
    model: nn.Module,
    request: pytest.FixtureRequest,
    source: str,
    change: Callable,
    message: str,
) -> None:
    tensors = request.getfixturevalue(f"{source}_tensors")
    path = save(tmp_path, change(tensors))
    checkpointer = GACheckpointer(model)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpointer.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    checkpointer.load(save(tmp_path, tensors))  # the checkpointer is not left in a bad state


# -- detectron2's checkpoints ----------------------------------------------------------------------


def test_detectron2_checkpoint(
    tmp_path: Path, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """Tensors that do not fit are left out with warnings, as in detectron2."""
    state = {k: torch.full_like(v, 3) for k, v in model.state_dict().items()}
    del state[LOC]
    state[LAST] = torch.zeros(1)
    path = save(tmp_path, {"model": state, "iteration": 5})
    assert GACheckpointer(model).load(path) == {"iteration": 5}
    assert untouched(model) == {LOC, LAST}
    assert LOC in caplog.text
    assert LAST in caplog.text
    message = rf"tensor '{LAST}' has the shape \(1,\), but in this model .*and 1 more do not fit"
    with pytest.raises(CheckpointError, match=message):
        GACheckpointer(model, complete=True).load(path)


def test_matching_heuristics_in_the_address(tmp_path: Path, model: nn.Module) -> None:
    state = model.backbone.bottom_up.state_dict()
    path = save(tmp_path, {k: torch.full_like(v, 3) for k, v in state.items()})
    GACheckpointer(model).load(path + "?matching_heuristics=True")
    assert untouched(model) == heads(model)
    with pytest.raises(CheckpointError, match=r"unknown query '\?heuristics=1'"):
        GACheckpointer(model).load(path + "?heuristics=1")


def test_complete_refuses_another_model(checkpoint_of: Callable, model: nn.Module) -> None:
    path = checkpoint_of("ga_retinanet_R_50")
    with pytest.raises(CheckpointError, match=ANOTHER_MODEL):
        GACheckpointer(model, complete=True).load(path)
    GACheckpointer(model).load(path)  # training may start from it


def test_complete_refuses_a_deeper_backbone(
    tmp_path: Path, checkpoint_of: Callable, model: nn.Module
) -> None:
    content = torch.load(checkpoint_of("ga_rpn_R_50"))
    content["model"]["backbone.bottom_up.res4.6.conv1.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"res4\.6\.conv1\.weight' has no place"):
        GACheckpointer(model, complete=True).load(save(tmp_path, content))


def test_detector_provides_its_proposal_generator(
    checkpoint_of: Callable, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint_of("ga_faster_R_50")
    assert GACheckpointer(model, complete=True).load(path) == {"iteration": 9}
    assert "box_predictor" in caplog.text
    assert torch.equal(model.state_dict()[LOC], torch.load(path)["model"][LOC])


def test_missing_file(tmp_path: Path, model: nn.Module) -> None:
    assert GACheckpointer(model).load("") == {}
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match=f"{path}: there is no such file$"):
            GACheckpointer(model).load(str(path))


def test_address_without_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = "http://127.0.0.1:9/weights.pth"
    with pytest.raises(CheckpointError, match=rf"{url}: cannot be downloaded \(.*refused\)"):
        GACheckpointer(nn.Linear(1, 1)).load(url)


@pytest.mark.parametrize("resume", [True, False])
def test_same_results_as_detectron2s_checkpointer(tmp_path: Path, resume: bool) -> None:
    """Save, then resume or load."""
    first = nn.Linear(2, 2)
    path = save(tmp_path, first.state_dict())
    results = []
    for cls in (DetectionCheckpointer, GACheckpointer):
        torch.manual_seed(0)
        folder = tmp_path / cls.__name__
        folder.mkdir()
        trained = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(trained.parameters(), 0.1, momentum=0.9)
        trained(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        cls(trained, str(folder), optimizer=optimizer).save("model_0000003", iteration=3)
        assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"

        model = nn.Linear(2, 2)
        fresh = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
        extra = cls(model, str(folder), optimizer=fresh).resume_or_load(path, resume=resume)
        expected = trained if resume else first
        assert torch.equal(model.weight, expected.weight)
        results.append((extra, str(model.state_dict()), str(fresh.state_dict())))
    assert results[0] == results[1]
    assert results[0][0] == ({"iteration": 3} if resume else {})


def test_weights_of_another_model_end_a_tool_in_one_line(
    checkpoint_of: Callable, arguments: Callable, tmp_path: Path
) -> None:
    """GA-RPN with the weights of a GA-RetinaNet."""
    weights = checkpoint_of("ga_retinanet_R_50")
    argv = arguments("ga_rpn_R_50", "--output", tmp_path / "out", MODEL__WEIGHTS=weights)
    with pytest.raises(SystemExit) as stop:
        load_script("dump_proposals").main(argv)
    assert str(stop.value.code).startswith(f"dump_proposals.py: error: {weights}: ")
    assert re.search(ANOTHER_MODEL, str(stop.value.code))
    assert "\n" not in str(stop.value.code)
    assert not (tmp_path / "out").exists()
