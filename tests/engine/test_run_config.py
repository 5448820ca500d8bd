"""Mistakes in configurations and arguments are told in one line that says what would be right."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ga_detectron2.engine import check_run, load_config, use_available_device
from ga_detectron2.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(name: str = "ga_rpn_R_50", **overrides: object) -> CfgNode:
    flat = ["DATASETS.TRAIN", ("ga_shapes_train",), "DATASETS.TEST", ("ga_shapes_val",)]
    flat += ["MODEL.DEVICE", "cpu"]
    for key, value in overrides.items():
        flat += [key.replace("__", "."), value]
    return load_config(str(CONFIGS / f"{name}.yaml"), flat)


def test_a_right_configuration_passes() -> None:
    check_run(load(), num_processes=8)
    check_run(load(SOLVER__REFERENCE_WORLD_SIZE=8), num_processes=3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.RPN.NMS_TRESH", 0.5],
            r"MODEL\.RPN\.NMS_TRESH.*did you mean .*NMS_THRESH",
        ),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER.*int"),
        (["SOLVER.MAX_ITER"], r"SOLVER\.MAX_ITER.*odd length"),
    ],
)
def test_overrides(overrides: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  GUIDED_ANCOR:\n    CENTER_RATIO: 0.3\n", "did you mean MODEL.GUIDED_ANCHOR"),
        ("MODEL: [\n", "expected"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "python/object/apply"),
        ("_BASE_: absent.yaml\n", "absent.yaml"),
        ("SOLVER:\n  BASE_LR: fast\n", "SOLVER.BASE_LR"),
    ],
)
def test_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text + "VERSION: 2\n")
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_files() -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml.*does not exist"):
        load_config("absent.yaml")
    with pytest.raises(ConfigError, match="--config-file"):
        load_config("")
    with pytest.raises(ConfigError, match=r"--dataset.*NAME=ANNOTATIONS.json:IMAGE_FOLDER"):
        load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), datasets=["mine"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"DATASETS__TRAIN": ("ga_shapes_trian",)},
            "DATASETS.TRAIN.*mean 'ga_shapes_train'",
        ),
        ({"DATASETS__TEST": ("nothing_like_it",)}, "DATASETS.TEST.*--dataset NAME="),
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN is empty"),
        ({"DATASETS__TRAIN": ("coco_2014_train",)}, "DETECTRON2_DATASETS"),
        ({"SOLVER__IMS_PER_BATCH": 9}, "SOLVER.IMS_PER_BATCH 9 .* the 2 processes"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": 3}, "SOLVER.IMS_PER_BATCH 16 .*WORLD_SIZE 3"),
        ({"SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full"}, "CLIP_TYPE 'full' must be .*'full_model'"),
        ({"SOLVER__CLIP_GRADIENTS__CLIP_VALUE": 0.0}, "CLIP_VALUE 0.0 must be above 0"),
        ({"SOLVER__AMP__ENABLED": True}, "SOLVER.AMP.ENABLED needs a CUDA device"),
        ({"TEST__AUG__ENABLED": True}, "TEST.AUG.ENABLED.*GeneralizedRCNN.*ProposalNetwork"),
    ],
)
def test_runs_that_cannot_work(overrides: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run(load(**overrides), num_processes=2)


def test_augmentation_is_not_offered_for_retinanet() -> None:
    with pytest.raises(ConfigError, match="GARetinaNet"):
        check_run(
            load("ga_retinanet_R_50", TEST__AUG__ENABLED=True, MODEL__RETINANET__NUM_CLASSES=5)
        )
    cfg = load("ga_faster_R_50", TEST__AUG__ENABLED=True, MODEL__ROI_HEADS__NUM_CLASSES=5)
    check_run(cfg)


def test_classes_of_another_data_set() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.ROI_HEADS\.NUM_CLASSES to 5"):
        check_run(load("ga_faster_R_50"))


@pytest.fixture
def two_classes():
    """A data set of two classes with three keypoints."""
    name = "ga_run_config_test"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(thing_classes=["a", "b"], keypoint_names=["x", "y", "z"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("small/ga_retinanet_R_18", {}, r"NUM_CLASSES is 2, but data set 'ga_shapes_train' has 5"),
        (
            "recipes/ga_keypoint_R_50",
            {
                "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 3,
                "TEST__KEYPOINT_OKS_SIGMAS": [0.05] * 3,
                "MODEL__ROI_HEADS__NUM_CLASSES": 2,
            },
            "data set 'ga_run_config_train' has no keypoints",
        ),
    ],
)
def test_what_scores_is_not_held_to_the_training_set(
    two_classes: str, config: str, overrides: dict, message: str
) -> None:
    train = "ga_shapes_train"
    if "keypoint" in config:
        train = "ga_run_config_train"
        MetadataCatalog.get(train).thing_classes = ["a", "b"]
        DatasetCatalog.register(train, list)
    try:
        overrides = {"DATASETS__TEST": (two_classes,), "DATASETS__TRAIN": (train,), **overrides}
        cfg = load(config, MODEL__RETINANET__NUM_CLASSES=2, **overrides)
        check_run(cfg, eval_only=True)
        with pytest.raises(ConfigError, match=message):
            check_run(cfg)
        cfg.DATASETS.TEST = (train,)
        with pytest.raises(ConfigError, match=message):
            check_run(cfg, eval_only=True)
    finally:
        if train == "ga_run_config_train":
            DatasetCatalog.remove(train)
            MetadataCatalog.remove(train)


def test_fast_rcnn_needs_its_proposals(tmp_path: Path) -> None:
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


def test_the_device_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        check_run(load(), num_processes=2)
