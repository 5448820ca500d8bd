"""Datasets that cannot be scored are reported before training."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from ga_detectron2.engine import load_config
from ga_detectron2.engine.evaluators import (
    build_evaluator,
    check_evaluator,
    check_records,
    results_folder,
)
from ga_detectron2.errors import ConfigError
from ga_detectron2.evaluation import ProposalRecallEvaluator
from tests.runs import CONFIGS, as_overrides

NAME = "ga_evaluators_test"


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Registers a COCO file of two images whose annotations are changed first."""

    def register(**changes: Any) -> None:
        annotation = {"area": 200, "iscrowd": 0, "bbox": [2, 2, 20, 10], "category_id": 1,
                      "segmentation": [[2, 2, 22, 2, 22, 12, 2, 12]],
                      "keypoints": [2, 2, 2, 22, 12, 2], "num_keypoints": 2, **changes}  # fmt: skip
        annotation = {key: value for key, value in annotation.items() if value != "absent"}
        content = {
            "info": {},
            "images": [{"id": i, "file_name": f"{i}", "height": 64, "width": 96} for i in (1, 2)],
            "annotations": [{**annotation, "id": i, "image_id": i} for i in (1, 2)],
            "categories": [{"id": 1, "name": "card", "keypoints": ["a", "b"], "skeleton": []}],
        }
        (tmp_path / "set.json").write_text(json.dumps(content))
        for image in content["images"]:
            (tmp_path / image["file_name"]).touch()
        register_coco_instances(NAME, {}, str(tmp_path / "set.json"), str(tmp_path))

    yield register
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def config(name: str = "ga_faster_R_50", **overrides: Any) -> CfgNode:
    keys = {"DATASETS.TEST": (NAME,), **overrides}
    return load_config(str(CONFIGS / f"{name}.yaml"), as_overrides(keys))


def register_records(annotations: list[dict], evaluator_type: str | None = None) -> None:
    """Register an image with these annotations in Python."""
    record = {"file_name": "a", "image_id": "000001", "height": 20, "width": 20}
    DatasetCatalog.register(NAME, lambda: [{**record, "annotations": annotations}])
    metadata = MetadataCatalog.get(NAME)
    metadata.thing_classes = ["a"]
    if evaluator_type:
        metadata.evaluator_type = evaluator_type


MASKS = {"MODEL__MASK_ON": True}
KEYPOINTS = {
    "MODEL__KEYPOINT_ON": True,
    "MODEL__ROI_KEYPOINT_HEAD__NUM_KEYPOINTS": 2,
    "TEST__KEYPOINT_OKS_SIGMAS": [0.05, 0.05],
}


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, {**MASKS, **KEYPOINTS}, None),
        # Fields that follow from others.
        ({"iscrowd": "absent", "area": "absent", "num_keypoints": "absent"}, KEYPOINTS, None),
        ({"segmentation": "absent"}, MASKS, "an annotation has no 'segmentation'"),
        ({"keypoints": "absent"}, KEYPOINTS, "have 0 keypoints"),
        (
            {},
            {**KEYPOINTS, "TEST__KEYPOINT_OKS_SIGMAS": []},
            "OKS_SIGMAS has 0 numbers for 2 keypoints",
        ),
    ],
)
def test_missing_scoring_field_is_reported(
    register: Callable, tmp_path: Path, changes: dict, overrides: dict, message: str | None
) -> None:
    register(**changes)
    cfg = config(**overrides)
    evaluator = build_evaluator(cfg, NAME, str(tmp_path))
    if message is not None:
        with pytest.raises(ConfigError, match=message) as error:
            check_evaluator(cfg, NAME, evaluator)
        assert "\n" not in str(error.value)
        return
    check_evaluator(cfg, NAME, evaluator)
    for annotation in evaluator._coco_api.anns.values():
        assert annotation["area"] == 200
        assert annotation["iscrowd"] == 0
        assert annotation["num_keypoints"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": None}, "has no image_id"),
        ({"height": None}, "has no height"),
        ({"image_id": 1}, "several records of .* have the image_id 1"),
    ],
)
def test_record_that_cannot_be_scored_is_reported(
    register: Callable, change: dict, message: str
) -> None:
    records = [{"file_name": "a", "image_id": i, "height": 4, "width": 4} for i in (1, 2)]
    DatasetCatalog.register(NAME, lambda: [{**record, **change} for record in records])
    with pytest.raises(ConfigError, match=message):
        check_records(NAME)


def test_changed_data_is_not_scored_with_cached_annotations(
    register: Callable, tmp_path: Path
) -> None:
    """detectron2 keeps the annotations of a dataset that was registered in Python in a file."""
    box = {"bbox": [1, 1, 9, 9], "bbox_mode": 1, "category_id": 0}
    for num_objects in (1, 3):
        DatasetCatalog.pop(NAME, None)
        MetadataCatalog.pop(NAME, None)
        register_records([box] * num_objects)
        evaluator = build_evaluator(config(), NAME, str(tmp_path))
        assert len(evaluator._coco_api.anns) == num_objects


def test_proposals_on_pascal_voc_are_scored_by_recall(register: Callable, tmp_path: Path) -> None:
    register_records([{"bbox": [1, 1, 9, 9], "bbox_mode": 1, "category_id": 0}], "pascal_voc")
    cfg = config("ga_rpn_R_50")
    evaluator = build_evaluator(cfg, NAME, str(tmp_path))
    assert isinstance(evaluator, ProposalRecallEvaluator)
    check_evaluator(cfg, NAME, evaluator)
    boxes = Boxes(torch.tensor([[1.0, 1, 10, 10], [3, 3, 20, 20]]))
    proposals = Instances((20, 20), proposal_boxes=boxes, objectness_logits=torch.ones(2))
    evaluator.process([{"image_id": "000001"}], [{"proposals": proposals}])
    assert evaluator.evaluate()["proposal_recall"]["AR@100"] == 100


def test_panoptic_model_warns_that_boxes_alone_are_scored(
    register: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_records([], "coco_panoptic_seg")
    cfg = config(MODEL__META_ARCHITECTURE="PanopticFPN")
    build_evaluator(cfg, NAME, str(tmp_path))
    assert "panoptic and semantic segmentation are not" in caplog.text


def test_each_of_several_test_sets_has_its_own_results() -> None:
    cfg = config(DATASETS__TEST=("a", "b"), OUTPUT_DIR="out")
    assert results_folder(cfg, "a") == "out/inference/a"
    assert results_folder(cfg, "b", "inference_TTA") == "out/inference_TTA/b"
    cfg.DATASETS.TEST = ("a",)
    assert results_folder(cfg, "a") == "out/inference"
