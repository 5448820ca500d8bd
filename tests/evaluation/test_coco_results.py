"""Detections for COCO's server, as detectron2 writes them and with errors."""

import json
import runpy
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from ga_detectron2.errors import DataError
from ga_detectron2.evaluation.coco_results import check_results, zip_results

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "check_results.py"
NAME = "coco_results_test"


@pytest.fixture
def image_info(tmp_path: Path) -> Path:
    """Like image_info_test-dev2017.json: no annotations, and ids with gaps."""
    path = tmp_path / "image_info.json"
    contents = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 60} for i in (7, 99, 12)
        ],
        "categories": [{"id": i, "name": str(i)} for i in (1, 13, 90)],
    }
    path.write_text(json.dumps(contents))
    return path


@pytest.fixture
def detected(image_info: Path, tmp_path: Path) -> Path:
    """What COCOEvaluator writes for 100 detections on one image, one on another, none on one."""
    register_coco_instances(NAME, {}, str(image_info), str(tmp_path))
    try:
        DatasetCatalog.get(NAME)  # Fills in the mapping of categories, as loading the data does.
        evaluator = COCOEvaluator(NAME, distributed=False, output_dir=str(tmp_path / "inference"))
        evaluator.reset()
        for image_id, number in ((7, 100), (99, 1), (12, 0)):
            boxes = torch.tensor([[5.0, 6.0, 25.0, 36.0]]).repeat(number, 1)
            instances = Instances(
                (50, 60),
                pred_boxes=Boxes(boxes),
                scores=torch.linspace(0.9, 0.001, number),
                pred_classes=torch.arange(number) % 3,
            )
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        assert not evaluator.evaluate()
    finally:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
    return tmp_path / "inference" / "coco_instances_results.json"


def test_detections_of_detectron2_can_be_uploaded(
    detected: Path, image_info: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert check_results(str(detected), str(image_info)) == (101, 2, 1, 100)
    loaded = COCO(str(image_info)).loadRes(str(detected))
    assert {x["category_id"] for x in loaded.anns.values()} == {1, 13, 90}
    assert loaded.anns[1]["bbox"] == [5, 6, 20, 30]
    target = tmp_path / "detections_test-dev2017_ga_results.zip"
    capsys.readouterr()
    main = runpy.run_path(str(SCRIPT))["main"]
    main([str(detected), "--annotations", str(image_info), "--zip", str(target)])
    assert "101 detections on 2 images, at most 100 on one; 1 images" in capsys.readouterr().out
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["detections_test-dev2017_ga_results.json"]
        assert archive.read(archive.namelist()[0]) == detected.read_bytes()
    with pytest.raises(DataError, match="requires the name"):
        zip_results(str(detected), str(tmp_path / "mine.zip"))


GOOD = {"image_id": 7, "category_id": 13, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(image_id=8), "image_id 8, which is not in the dataset"),
        (lambda r: r.update(image_id=True), "image_id True"),
        (lambda r: r.update(category_id=0), "category_id 0.*do not start at 0"),
        (lambda r: r.pop("score"), "has no 'score'"),
        (lambda r: r.update(score=float("nan")), "score nan"),
        (lambda r: r.update(score="1"), "score '1'"),
        (lambda r: r.update(bbox=[1, 2, 3]), "not four finite numbers"),
        (lambda r: r.update(bbox=[1, 2, float("inf"), 4]), "not four finite numbers"),
        (lambda r: r.update(bbox=[1, 2, 0, 4]), "must be above 0"),
    ],
)
def test_wrong_detection_is_named(
    change: Callable, message: str, image_info: Path, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    bad = dict(GOOD)
    change(bad)
    path.write_text(json.dumps([{**GOOD, "image_id": 7.0}, bad]))
    with pytest.raises(DataError, match=f"results.json: detection 1 .*{message}"):
        check_results(str(path), str(image_info))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a JSON file"),
        ("{}", "not a list of detections"),
        ("[]", "no detections"),
        (json.dumps([GOOD] * 101), "image 7 has 101 detections"),
        ("[3]", "detection 0 is not an object"),
    ],
)
def test_wrong_file_is_refused(
    content: str, message: str, image_info: Path, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"]([str(path), "--annotations", str(image_info)])
    assert str(stop.value.code).startswith("check_results.py: error: ")
    with pytest.raises(DataError, match=message):
        check_results(str(path), str(image_info))


def test_annotations_must_be_cocos(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([GOOD]))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"other.json: not a COCO JSON"):
        check_results(str(tmp_path / "results.json"), str(tmp_path / "other.json"))
