"""Each recipe of configs/recipes trains two iterations and is scored."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.data import MetadataCatalog

from ga_detectron2.data import register_datasets
from ga_detectron2.engine import load_config
from tests.runs import CONFIGS, GA_LOSSES, losses, metrics, results
from tests.scripts import load_script

BOX_LOSSES = {"loss_cls", "loss_box_reg"}
STAGE_LOSSES = {f"{loss}_stage{i}" for loss in BOX_LOSSES for i in range(3)}


@pytest.fixture(scope="module")
def train_net():
    return load_script("train_net")


def check_losses(folder: Path, expected: set[str]) -> None:
    found = losses(folder)
    assert set(found) == expected
    assert all(math.isfinite(v) and v >= 0 for v in found.values()), found


ANY_SCORE = {"MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0}


def test_masks(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_mask_R_50", **ANY_SCORE))
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES | {"loss_mask"})
    assert {"bbox/AP", "segm/AP"} <= set(metrics(output))
    for found in results(output):
        assert found["segmentation"]["size"] == [64, 96]


def test_cascade(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_cascade_R_50", **ANY_SCORE))
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | STAGE_LOSSES)
    assert "bbox/AP" in metrics(output)
    assert results(output)


def test_keypoints(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(
        arguments(
            "recipes/ga_keypoint_R_50",
            **ANY_SCORE,
            MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS=5,
            MODEL__ROI_KEYPOINT_HEAD__CONV_DIMS=(16, 16),
            TEST__KEYPOINT_OKS_SIGMAS=[0.05] * 5,
        )
    )
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES | {"loss_keypoint"})
    assert {"bbox/AP", "keypoints/AP"} <= set(metrics(output))
    assert {len(found["keypoints"]) for found in results(output)} == {5 * 3}


def test_keypoint_flip_map_is_that_of_detectron2(tmp_path: Path) -> None:
    """Derived from names, as detectron2 lists it for COCO's 17."""
    theirs = MetadataCatalog.get("keypoints_coco_2017_train")
    contents = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(theirs.keypoint_names)}],
    }
    (tmp_path / "a.png").touch()
    (tmp_path / "a.json").write_text(json.dumps(contents))
    register_datasets([f"ga_persons={tmp_path / 'a.json'}:{tmp_path}"])
    ours = MetadataCatalog.get("ga_persons")
    assert ours.keypoint_names == theirs.keypoint_names
    assert ours.keypoint_flip_map == theirs.keypoint_flip_map


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("ga_keypoint_R_50", {}, "NUM_KEYPOINTS is 17, but annotations of 'ga_tiny' have 5"),
        (
            "ga_keypoint_R_50",
            {"MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 5},
            "TEST.KEYPOINT_OKS_SIGMAS has 0 numbers for 5 keypoints",
        ),
        (
            "ga_cascade_R_50",
            {"MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.6]},
            "assert cascade_ious[0] == cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]",
        ),
        ("ga_faster_R_50_amp", {}, "SOLVER.AMP.ENABLED needs a CUDA device"),
        ("finetune_faster_R_50", {}, "DATASETS.PROPOSAL_FILES_TRAIN names 0 files for 1"),
        ("few_classes_R_50", {"MODEL__ROI_HEADS__NUM_CLASSES": 4}, "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_mistakes_are_reported_before_training(
    train_net, arguments: Callable, recipe: str, overrides: dict, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train_net.main(arguments(f"recipes/{recipe}", **overrides))
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


def test_one_gpu_is_the_same_schedule_by_images() -> None:
    eight = load_config(str(CONFIGS / "ga_faster_R_50.yaml")).SOLVER
    one = load_config(str(CONFIGS / "recipes" / "ga_faster_R_50_one_gpu.yaml")).SOLVER
    assert eight.BASE_LR * one.IMS_PER_BATCH == one.BASE_LR * eight.IMS_PER_BATCH
    for key in ("MAX_ITER", "WARMUP_ITERS"):
        assert one[key] * one.IMS_PER_BATCH == eight[key] * eight.IMS_PER_BATCH
    assert [s * one.IMS_PER_BATCH for s in one.STEPS] == [
        s * eight.IMS_PER_BATCH for s in eight.STEPS
    ]


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


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def parameters_of(state: dict[str, torch.Tensor]) -> list[str]:
    """Names of what is trained, apart from norms."""
    return [n for n in state if n.endswith((".weight", ".bias")) and ".norm." not in n]


def test_fine_tuning_on_stored_proposals(
    train_net, arguments: Callable, save_weights: Callable, tmp_path: Path
) -> None:
    """A trained detector with an RPN is fine-tuned on the proposals of a GA-RPN."""
    proposals = tmp_path / "proposals.pkl"
    load_script("dump_proposals").main(
        arguments("ga_rpn_R_50", "--output", proposals, MODEL__WEIGHTS=save_weights("ga_rpn_R_50"))
    )
    weights = save_weights("ga_faster_R_50", MODEL__PROPOSAL_GENERATOR__NAME="RPN")
    detector = torch.load(weights)["model"]
    train_net.main(
        arguments(
            "recipes/finetune_faster_R_50",
            MODEL__WEIGHTS=weights,
            DATASETS__PROPOSAL_FILES_TRAIN=(str(proposals),),
            DATASETS__PROPOSAL_FILES_TEST=(str(proposals),),
            SOLVER__BASE_LR=0.0,
        )
    )
    output = tmp_path / "output"
    check_losses(output, BOX_LOSSES)
    assert "bbox/AP" in metrics(output)
    # With a learning rate of 0, the weights stay the same.
    found = final_weights(output)
    assert not any("proposal_generator" in name for name in found)
    names = parameters_of(found)
    assert any(n.startswith("roi_heads.box_predictor") for n in names)
    assert all(torch.equal(found[n], detector[n]) for n in names)


def test_fine_tuning_has_the_settings_of_the_weights() -> None:
    """Those of detectron2's own Faster R-CNN."""
    theirs = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    ours = load_config(str(CONFIGS / "recipes" / "finetune_faster_R_50.yaml"))
    assert ours.MODEL.ROI_BOX_HEAD == theirs.MODEL.ROI_BOX_HEAD
    assert ours.MODEL.RESNETS == theirs.MODEL.RESNETS
    assert ours.MODEL.FPN == theirs.MODEL.FPN
    assert ours.MODEL.PIXEL_MEAN == theirs.MODEL.PIXEL_MEAN
    assert ours.MODEL.PIXEL_STD == theirs.MODEL.PIXEL_STD
    url = model_zoo.get_checkpoint_url("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert url.endswith(ours.MODEL.WEIGHTS.removeprefix("detectron2://"))
    epoch = 117266 / ours.SOLVER.IMS_PER_BATCH
    assert ours.SOLVER.MAX_ITER / epoch == pytest.approx(3, rel=0.001)
    assert ours.SOLVER.STEPS[0] / epoch == pytest.approx(2, rel=0.001)


def test_few_classes_start_from_a_model_with_80(
    train_net,
    arguments: Callable,
    save_weights: Callable,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
) -> None:
    weights = save_weights("ga_faster_R_50", MODEL__ROI_HEADS__NUM_CLASSES=80)
    published = torch.load(weights)["model"]
    train_net.main(
        arguments("recipes/few_classes_R_50", MODEL__WEIGHTS=weights, SOLVER__BASE_LR=0.0)
    )
    output = tmp_path / "output"
    check_losses(output, GA_LOSSES | BOX_LOSSES)
    found = final_weights(output)
    new = {n for n in parameters_of(found) if not torch.equal(found[n], published[n])}
    assert new == {
        f"roi_heads.box_predictor.{layer}.{kind}"
        for layer in ("cls_score", "bbox_pred")
        for kind in ("weight", "bias")
    }
    assert found["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3  # and background
    assert "roi_heads.box_predictor.cls_score.weight" in capfd.readouterr().out  # a warning


@pytest.mark.gpu
def test_mixed_precision(train_net, arguments: Callable, tmp_path: Path) -> None:
    train_net.main(arguments("recipes/ga_faster_R_50_amp", MODEL__DEVICE="cuda"))
    check_losses(tmp_path / "output", GA_LOSSES | BOX_LOSSES)
