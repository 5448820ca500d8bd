"""Weights of another model are refused where nothing is trained, by the model and by the tools."""

import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import load_config
from ga_detectron2.errors import CheckpointError
from tests.scripts import load_script

from .reference import CONFIGS, NARROW, SHAPES, make_narrow

QUICK = [*NARROW, "MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
LOC = "proposal_generator.rpn_head.anchor_loc.weight"
ANOTHER = (
    r"there is no tensor for 'backbone\.fpn_lateral2\.weight' of this model \(and \d+ more do not "
    r"fit\); these weights are of another model\. Use the configuration .* \(config\.yaml beside"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The weights of a narrow model of a configuration, as a training writes them."""
    folder = tmp_path_factory.mktemp("weights")

    def file(name: str) -> str:
        path = folder / f"{name}.pth"
        if not path.exists():
            model = build_model(load_config(str(CONFIGS / f"{name}.yaml"), QUICK))
            torch.save({"model": model.state_dict(), "iteration": 9}, path)
        return str(path)

    return file


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), QUICK))


def changed(source: str, folder: Path, change: Callable[[dict], object]) -> str:
    content = torch.load(source)
    change(content["model"])
    torch.save(content, folder / "changed.pth")
    return str(folder / "changed.pth")


def load(model: nn.Module, path: str) -> dict:
    return GACheckpointer(model, complete=True).load(path)


def test_another_model(files: Callable, model: nn.Module) -> None:
    path = files("ga_retinanet_R_50")
    with pytest.raises(CheckpointError, match=ANOTHER) as error:
        load(model, path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    GACheckpointer(model).load(path)  # a training may start from it


def test_the_last_checkpoint_is_no_exception(
    files: Callable, model: nn.Module, tmp_path: Path
) -> None:
    changed(files("ga_rpn_R_50"), tmp_path, lambda tensors: tensors.pop(LOC))
    (tmp_path / "last_checkpoint").write_text("changed.pth")
    checkpointer = GACheckpointer(model, str(tmp_path), complete=True)
    with pytest.raises(CheckpointError, match=f"no tensor for '{LOC}' of this model; these"):
        checkpointer.resume_or_load("", resume=True)


def test_another_shape(files: Callable, model: nn.Module, tmp_path: Path) -> None:
    path = changed(
        files("ga_rpn_R_50"), tmp_path, lambda t: t.update({LOC: torch.zeros(2, 32, 1, 1)})
    )
    message = rf"tensor '{LOC}' has the shape \(2, 32, 1, 1\), but in this model \(1, 32, 1, 1\); "
    with pytest.raises(CheckpointError, match=message):
        load(model, path)


def test_a_detector_for_its_proposals(
    files: Callable, model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """What the file has beyond the model is left over, with a warning."""
    path = files("ga_faster_R_50")
    with caplog.at_level(logging.WARNING):
        assert load(model, path) == {"iteration": 9}
    assert "box_predictor" in caplog.text
    assert torch.equal(model.state_dict()[LOC], torch.load(path)["model"][LOC])


@pytest.mark.parametrize("name", ["pixel_mean", "backbone.bottom_up.res2.0.conv1.norm.running_var"])
def test_what_is_not_learned_may_be_missing(
    files: Callable, model: nn.Module, tmp_path: Path, name: str
) -> None:
    """The mean is the configuration's; frozen batch norm of old files has no statistics."""
    path = changed(files("ga_rpn_R_50"), tmp_path, lambda t: t.pop(name, None))
    content = torch.load(path)
    content["model"]._metadata = None
    content["model"] = dict(content["model"])
    torch.save(content, path)
    load(model, path)


def test_statistics_of_batch_norm_are_learned(tmp_path: Path) -> None:
    twins = [nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)) for _ in range(2)]
    tensors = twins[0].state_dict()
    tensors.pop("1.num_batches_tracked")
    torch.save({"model": tensors}, tmp_path / "a.pth")
    load(twins[1], str(tmp_path / "a.pth"))
    tensors.pop("1.running_mean")
    torch.save({"model": tensors}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no tensor for '1\.running_mean' of this model;"):
        load(twins[1], str(tmp_path / "a.pth"))


def test_a_tensor_with_two_names(tmp_path: Path) -> None:
    shared = nn.Linear(2, 2)
    torch.save({"model": nn.Sequential(shared).state_dict()}, tmp_path / "a.pth")
    load(nn.Sequential(shared, shared), str(tmp_path / "a.pth"))


def test_mmdetections_file(model: nn.Module, tmp_path: Path) -> None:
    tensors = make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])
    torch.save({"state_dict": tensors, "meta": {}}, tmp_path / "mmdet.pth")
    load(model, str(tmp_path / "mmdet.pth"))
    assert torch.equal(model.state_dict()[LOC], tensors["rpn_head.conv_loc.weight"])


@pytest.mark.parametrize("heads", [True, False], ids=["whole", "backbone"])
def test_detectron2s_pickle(files: Callable, model: nn.Module, tmp_path: Path, heads: bool) -> None:
    tensors = torch.load(files("ga_rpn_R_50"))["model"]
    arrays = {
        name.removeprefix("backbone.bottom_up."): value.numpy()
        for name, value in tensors.items()
        if name.startswith("backbone.bottom_up.") or (heads and not name.startswith("pixel"))
    }
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    if heads:
        load(model, str(tmp_path / "a.pkl"))
    else:
        with pytest.raises(CheckpointError, match=ANOTHER):
            load(model, str(tmp_path / "a.pkl"))


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("export_model", ["--output", "{}/out", "--check", "{}/a.png"]),
        ("demo", ["--input", "{}/a.png", "--output", "{}/out", "--opts"]),
        ("dump_proposals", ["--output", "{}/out"]),
        ("diagnose", []),
        ("train_net", ["--eval-only"]),
    ],
)
def test_tools_tell_in_one_line(
    files: Callable,
    tmp_path: Path,
    tool: str,
    arguments: list[str],
    capfd: pytest.CaptureFixture,
) -> None:
    """GA-RPN with the weights of a GA-RetinaNet, before anything is written."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    weights = files("ga_retinanet_R_50")
    with pytest.raises(SystemExit) as stop:
        load_script(tool).main(
            [
                *("--config-file", str(CONFIGS / "ga_rpn_R_50.yaml")),
                *(part.format(tmp_path) for part in arguments),
                *(*QUICK, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "run")),
                *("DATASETS.TEST", "('ga_shapes_val',)", "DATALOADER.NUM_WORKERS", "0"),
            ]
        )
    said = str(stop.value.code)  # of some tools 1, and the line on stderr
    said = said if "error" in said else capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"{tool}.py: error: {weights}: ")
    assert re.search(ANOTHER, said)
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
