"""Each recipe of configs/recipes trains two iterations and is scored."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from ga_detectron2.engine import load_config
from tests.recipes.runs import CONFIGS, GA_LOSSES, load_script, losses, metrics

BOX_LOSSES = {"loss_cls", "loss_box_reg"}
STAGE_LOSSES = {f"{loss}_stage{i}" for loss in BOX_LOSSES for i in range(3)}


@pytest.fixture(scope="module")
def train_net():
    return load_script("train_net")


def check_losses(folder: Path, expected: set[str]) -> None:
    found = losses(folder)
    assert set(found) == expected
    assert all(math.isfinite(v) and v >= 0 for v in found.values()), found


def detections(folder: Path) -> list[dict]:
    return json.loads((folder / "inference" / "coco_instances_results.json").read_text())


def test_masks(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_mask_R_50", MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0))
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES | {"loss_mask"})
    assert {"bbox/AP", "segm/AP"} <= set(metrics(output))
    for found in detections(output):
        assert found["segmentation"]["size"] == [64, 96]


def test_cascade(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_cascade_R_50", MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0))
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | STAGE_LOSSES)
    assert "bbox/AP" in metrics(output)
    assert detections(output)


def test_keypoints(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(
        arguments(
            "recipes/ga_keypoint_R_50",
            MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0,
            MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS=5,
            MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS=(16, 16),
            TEST__KEYPOINT_OKS_SIGMAS=[0.05] * 5,
        )
    )
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES | {"loss_keypoint"})
    assert {"bbox/AP", "keypoints/AP"} <= set(metrics(output))
    assert {len(found["keypoints"]) for found in detections(output)} == {5 * 3}


@pytest.mark.parametrize(
    ("recipe", "overrides", "told"),
    [
        ("ga_keypoint_R_50", {}, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17, but data set"),
        (
            "ga_keypoint_R_50",
            {"MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 5},
            "TEST.KEYPOINT_OKS_SIGMAS has 0 numbers for 5 keypoints",
        ),
        (
            "ga_keypoint_R_50",
            {"DATASETS__TRAIN": "('ga_shapes_train',)", "MODEL__ROI_HEADS__NUM_CLASSES": 5,
             "DATASETS__TEST": "()"},
            "data set 'ga_shapes_train' has no keypoints",
        ),
        (
            "ga_cascade_R_50",
            {"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.6]},
            "MODEL.ROI_HEADS.IOU_THRESHOLDS [0.6] must be the first of",
        ),
        (
            "ga_cascade_R_50",
            {"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False},
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True",
        ),
        ("ga_faster_R_50_amp", {}, "SOLVER.AMP.ENABLED needs a CUDA device"),
        ("finetune_faster_R_50", {}, "DATASETS.PROPOSAL_FILES_TRAIN names 0 files for 1"),
        ("few_classes_R_50", {}, "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_run(
    train_net, arguments: Callable, recipe: str, overrides: dict, told: str
) -> None:
    if recipe.startswith("few"):
        overrides = {"MODEL__ROI_HEADS__NUM_CLASSES": 3}
    with pytest.raises(SystemExit) as stop:
        train_net.main(arguments(f"recipes/{recipe}", **overrides))
    assert told in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_one_gpu_is_the_same_schedule_by_images() -> None:
    eight = load_config(str(CONFIGS / "ga_faster_R_50.yaml")).SOLVER
    one = load_config(str(CONFIGS / "recipes" / "ga_faster_R_50_one_gpu.yaml")).SOLVER
    assert one.BASE_LR / one.IMS_PER_BATCH == pytest.approx(eight.BASE_LR / eight.IMS_PER_BATCH)
    for key in ("MAX_ITER", "WARMUP_ITERS"):
        assert one[key] * one.IMS_PER_BATCH == eight[key] * eight.IMS_PER_BATCH
    assert [s * one.IMS_PER_BATCH for s in one.STEPS] == [
        s * eight.IMS_PER_BATCH for s in eight.STEPS
    ]


def test_one_gpu(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_faster_R_50_one_gpu", DATASETS__TEST="()"))
    check_losses(tmp_path / "output", GA_LOSSES | BOX_LOSSES)


def test_large_images_are_cropped_and_not_resized(
    train_net, arguments: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    train_net.main(
        arguments(
            "recipes/large_images_R_50",
            INPUT__CROP__SIZE=[48, 64],
            INPUT__MIN_SIZE_TRAIN="(0,)",
            INPUT__MIN_SIZE_TEST=0,
        )
    )
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES)
    assert "bbox/AP" in metrics(output)
    printed = capfd.readouterr().out
    assert "RandomCrop(crop_type='absolute', crop_size=[48, 64])" in printed
