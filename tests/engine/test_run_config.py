"""Checks of configurations and arguments before a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ga_detectron2.engine import check_run, load_config, use_available_device
from ga_detectron2.errors import ConfigError
from tests.runs import CONFIGS, as_overrides


def load(name: str = "ga_rpn_R_50", **overrides: object) -> CfgNode:
    data = {"DATASETS.TRAIN": ("ga_shapes_train",), "DATASETS.TEST": ("ga_shapes_val",)}
    keys = {
        **data,
        "MODEL.DEVICE": "cpu",
        **{k.replace("__", "."): v for k, v in overrides.items()},
    }
    return load_config(str(CONFIGS / f"{name}.yaml"), as_overrides(keys))


def test_valid_configuration_passes() -> None:
    check_run(load(), num_processes=8)
    check_run(load(SOLVER__REFERENCE_WORLD_SIZE=8), num_processes=3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.RPN.NMS_TRESH", 0.5], r"MODEL\.RPN\.NMS_TRESH.*did you mean .*NMS_THRESH"),
        (["SOLVER.MAX_ITER"], r"SOLVER\.MAX_ITER.*odd length"),
    ],
)
def test_wrong_override_is_refused(overrides: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), overrides)


def test_missing_arguments() -> None:
    with pytest.raises(ConfigError, match="--config-file"):
        load_config("")
    with pytest.raises(ConfigError, match=r"--dataset.*NAME=ANNOTATIONS.json:IMAGE_FOLDER"):
        load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), datasets=["mine"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"DATASETS__TRAIN": ("ga_shapes_trian",)}, "DATASETS.TRAIN.*mean 'ga_shapes_train'"),
        ({"DATASETS__TEST": ("nothing_like_it",)}, "DATASETS.TEST.*--dataset NAME="),
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN is empty"),
        ({"DATASETS__TRAIN": ("coco_2014_train",)}, "DETECTRON2_DATASETS"),
        ({"SOLVER__IMS_PER_BATCH": 9}, "SOLVER.IMS_PER_BATCH 9 .* the 2 processes"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": 3}, "SOLVER.IMS_PER_BATCH 16 .*WORLD_SIZE 3"),
        ({"SOLVER__AMP__ENABLED": True}, "SOLVER.AMP.ENABLED needs a CUDA device"),
        ({"OUTPUT_DIR": ""}, "OUTPUT_DIR is empty"),
    ],
)
def test_run_that_would_fail_late_is_refused(overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(load(**overrides), num_processes=2)


def test_number_of_classes_of_another_dataset() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES to 5"):
        check_run(load("ga_faster_R_50"))


@pytest.fixture
def two_classes() -> Iterator[str]:
    """A registered dataset of two classes."""
    name = "ga_run_config_test"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_evaluation_ignores_the_training_sets(two_classes: str) -> None:
    classes = {"MODEL__RETINANET__NUM_CLASSES": 2, "DATASETS__TEST": (two_classes,)}
    cfg = load("small/ga_retinanet_R_18", **classes)
    check_run(cfg, eval_only=True)
    with pytest.raises(ConfigError, match="have different classes"):
        check_run(cfg)


def test_fast_rcnn_needs_proposal_files(tmp_path: Path) -> None:
    keys = {"MODEL__ROI_HEADS__NUM_CLASSES": 5}
    with pytest.raises(ConfigError, match=r"PROPOSAL_FILES_TRAIN names 0 files for 1.*dump_prop"):
        check_run(load("ga_fast_R_50", **keys))
    with pytest.raises(ConfigError, match=r"PROPOSAL_FILES_TEST names 0"):
        check_run(load("ga_fast_R_50", **keys), eval_only=True)
    keys["DATASETS__PROPOSAL_FILES_TEST"] = (str(tmp_path / "absent.pkl"),)
    with pytest.raises(ConfigError, match=r"PROPOSAL_FILES_TEST.*absent\.pkl"):
        check_run(load("ga_fast_R_50", **keys), eval_only=True)
    (tmp_path / "absent.pkl").touch()
    check_run(load("ga_fast_R_50", **keys), eval_only=True)


def test_device_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = load(MODEL__DEVICE="cuda:0")
    note = use_available_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert note is not None
    assert "cuda:0" in note
    assert use_available_device(cfg) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = load(MODEL__DEVICE="cuda")
    assert use_available_device(cfg) is None
    assert cfg.MODEL.DEVICE == "cuda"
