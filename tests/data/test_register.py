"""Registration of COCO JSON files, and what detectron2 and pycocotools then do with them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from ga_detectron2.data import build_train_loader, parse_dataset_argument, register_datasets
from ga_detectron2.data.classes import check_num_classes, prepare_datasets
from ga_detectron2.data.embedded import CACHE_VARIABLE
from ga_detectron2.data.records import get_records
from ga_detectron2.errors import DataError

from .coco_files import added, changed, make_contents, write_dataset


@pytest.fixture(autouse=True)
def catalogs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Remove what a test registered; completed copies go to a folder of the test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    before = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


def register(folder: Path, contents: Any, name: str = "set", in_python: bool = False) -> list[dict]:
    """Register a JSON in one of the two ways and load it."""
    argument = write_dataset(folder, contents, name)
    if in_python:
        _, json_file, image_root = parse_dataset_argument(f"{name}={argument}")
        register_coco_instances(name, {}, json_file, image_root)
    else:
        register_datasets([f"{name}={argument}"])
    return get_records([name], filter_empty=False)


def score(name: str, folder: Path, classes: list[str] | None = None) -> float:
    """AP of perfect detections, by a model with these classes."""
    classes = classes or MetadataCatalog.get(name).thing_classes
    names = MetadataCatalog.get(name).thing_classes
    evaluator = COCOEvaluator(name, output_dir=str(folder / "out"), use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        found = Instances((record["height"], record["width"]))
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).float().reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        numbers = [classes.index(names[a["category_id"]]) for a in record["annotations"]]
        found.pred_boxes, found.scores = Boxes(boxes), torch.ones(len(boxes))
        found.pred_classes = torch.tensor(numbers)
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["bbox"]["AP"]


# ------------------------------------------------------------------------------------- arguments


def test_colons_and_equal_signs_in_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_dataset_argument("p=x:y=1/b.json:d") == ("p", "x:y=1/b.json", "d")
    assert parse_dataset_argument("p=~/a.json:~/b") == ("p", "/home/me/a.json", "/home/me/b")


@pytest.mark.parametrize("argument", ["", "pets", "pets=a.json", "=a.json:b", "pets=:b", "p=a: "])
def test_malformed_argument_is_refused(argument: str) -> None:
    with pytest.raises(DataError, match=r"NAME=ANNOTATIONS\.json:IMAGE_FOLDER"):
        parse_dataset_argument(argument)


def test_same_dataset_again_is_kept_and_another_refused(tmp_path: Path) -> None:
    argument = f"set={write_dataset(tmp_path, make_contents())}"
    assert register_datasets([argument]) == register_datasets([argument]) == ["set"]
    with pytest.raises(DataError, match="'set' is already registered"):
        register_datasets([f"set={tmp_path / 'set.json'}:{tmp_path}"])
    with pytest.raises(DataError, match="'new' is given 2 times"):
        register_datasets([argument.replace("set=", "new=")] * 2)


def test_missing_files_are_named_and_nothing_is_registered(tmp_path: Path) -> None:
    good = write_dataset(tmp_path, make_contents())
    for argument, message in (
        (f"{tmp_path}/no.json:{tmp_path}", r"there is no annotation file .*no\.json"),
        (f"{tmp_path}/set.json:{tmp_path}/no", "there is no image folder .*no"),
        (f"{tmp_path}/set.json:{tmp_path}", r"image 1\.png of .*set\.json is not in"),
    ):
        with pytest.raises(DataError, match=f"'bad': .*{message}"):
            register_datasets([f"good={good}", f"bad={argument}"])
    assert "good" not in DatasetCatalog


# ----------------------------------------------------------------------------------- right files


@pytest.mark.parametrize("in_python", [False, True])
def test_records_and_metadata_are_detectron2s(tmp_path: Path, in_python: bool) -> None:
    records = register(tmp_path, make_contents(), in_python=in_python)
    json_file = str(tmp_path / "set.json")
    assert records == load_coco_json(json_file, str(tmp_path / "images"), "theirs")
    ours, theirs = MetadataCatalog.get("set"), MetadataCatalog.get("theirs")
    assert ours.thing_classes == theirs.thing_classes == ["ship", "pole"]
    assert ours.thing_dataset_id_to_contiguous_id == theirs.thing_dataset_id_to_contiguous_id
    assert (ours.json_file, ours.evaluator_type) == (json_file, "coco")
    assert not (tmp_path / "cache").exists()
    assert score("set", tmp_path) == pytest.approx(100)


def test_unpublished_annotations(tmp_path: Path) -> None:
    contents = make_contents()
    del contents["annotations"]
    assert [r["annotations"] for r in register(tmp_path, contents)] == [[], []]


@pytest.mark.photographs
def test_photographs_load_as_with_detectron2(shared_folder: Path) -> None:
    coco_tiny = shared_folder / "data" / "coco_tiny"
    files = [f"{coco_tiny}/annotations/instances_train2017.json", f"{coco_tiny}/train2017"]
    register_datasets([f"tiny={':'.join(files)}"])
    records = get_records(["tiny"], filter_empty=False)
    assert records == load_coco_json(*files, "theirs")
    assert len(records) == len(MetadataCatalog.get("tiny").thing_classes) == 80
    assert np.ptp(read_image(records[0]["file_name"], "BGR")) > 100


# --------------------------------------------------------------- files with something to complete


def first(records: list[dict]) -> dict:
    return records[0]["annotations"][0]


MASK = [[10, 10, 40, 10, 40, 30]]


@pytest.mark.parametrize("in_python", [False, True])
@pytest.mark.parametrize(
    "contents",
    [
        changed("annotations", 0, area=None),
        changed("annotations", 0, iscrowd=None),
        changed("annotations", 0, area="600"),
        changed("annotations", 0, area=float("nan")),
        changed("annotations", 0, id=None),
        changed("annotations", 0, id=0),
        changed("annotations", 0, id="first"),
        changed("annotations", 0, id=2**60, image_id=1.0, category_id=7.0),
        changed("images", 0, id=1.0, height=60.0, width=90.0),
        changed("images", 0, id=1.0, height=60.0),
        changed("categories", 0, id=7.0),
        changed("annotations", 0, segmentation=[[10, 10, 40, 30]]),
        changed("annotations", 0, segmentation=[[]]),
        changed("annotations", 0, image_id=8),
    ],
)
def test_legal_but_unusual_files_score_100(
    tmp_path: Path, contents: dict[str, Any], in_python: bool
) -> None:
    records = register(tmp_path, contents, in_python=in_python)
    lost = contents["annotations"][0]["image_id"] == 8
    assert sum(len(r["annotations"]) for r in records) == (2 if lost else 3)
    for key in ("image_id", "height", "width"):
        assert all(type(r[key]) is int for r in records)
    assert score("set", tmp_path) == pytest.approx(100)


@pytest.mark.parametrize("image_ids", [["a", "b"], [2**53 + 1, 2**53 + 2]])
def test_image_ids_of_text_and_large_ones(tmp_path: Path, image_ids: list) -> None:
    contents = make_contents()
    for image in contents["images"]:
        image["id"] = image_ids[image["id"] - 1]
    for annotation in contents["annotations"]:
        annotation["image_id"] = image_ids[annotation["image_id"] - 1]
    assert [r["image_id"] for r in register(tmp_path, contents)] == image_ids
    assert score("set", tmp_path) == pytest.approx(100)


@pytest.mark.parametrize("in_python", [False, True])
def test_ignored_objects_are_crowds_and_reported_once(
    tmp_path: Path, in_python: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = register(
            tmp_path, changed("annotations", 0, ignore=1), f"ignored{in_python}", in_python
        )
        DatasetCatalog.get(f"ignored{in_python}")
    assert first(records)["iscrowd"] == 1
    assert caplog.text.count('1 annotations with "ignore" set: treated as crowds') == 1


def test_area_of_masks_and_boxes(tmp_path: Path) -> None:
    contents = changed("annotations", 0, area=None, segmentation=MASK)
    rle = mask_util.frPyObjects(MASK, 60, 90)[0]
    del contents["annotations"][1]["area"]
    everywhere = {"size": [60, 90], "counts": [0, 5400]}
    contents["annotations"][2] |= {"area": None, "segmentation": everywhere}
    register(tmp_path, contents)
    coco = COCO(MetadataCatalog.get("set").json_file)
    assert [a["area"] for a in coco.loadAnns([1, 2, 3])] == [mask_util.area(rle), 500, 5400]


def test_keypoints_are_counted(tmp_path: Path) -> None:
    contents = changed("annotations", 0, keypoints=[11, 11, 2, 12, 12, 0, 13, 13, 1])
    for category in contents["categories"]:
        category["keypoints"] = ["left_end", "middle", "right_end"]
    records = register(tmp_path, contents)
    coco = COCO(MetadataCatalog.get("set").json_file)
    assert [a["num_keypoints"] for a in coco.loadAnns([1, 2, 3])] == [2, 0, 0]
    assert {len(a["keypoints"]) for r in records for a in r["annotations"]} == {9}
    metadata = MetadataCatalog.get("set")
    assert metadata.keypoint_names == ("left_end", "middle", "right_end")
    assert metadata.keypoint_flip_map == (("left_end", "right_end"),)


def test_changed_file_is_completed_again(tmp_path: Path) -> None:
    register(tmp_path, changed("annotations", 0, id=0))
    before = MetadataCatalog.get("set").json_file
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("set")
    records = register(tmp_path, changed("annotations", 0, id=0, bbox=[0, 0, 9, 9]))
    assert first(records)["bbox"] == [0, 0, 9, 9]
    assert MetadataCatalog.get("set").json_file != before


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DataError, match=rf"'set': .*cannot be written .*{CACHE_VARIABLE}"):
        register(tmp_path, changed("annotations", 0, id=0))


# ---------------------------------------------------------------------------- classes of a run


def config(train: list[str], test: list[str], num_classes: int = 2) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def reordered() -> dict[str, Any]:
    """The same objects, but with ids that sort the classes the other way."""
    contents = make_contents()
    for annotation in contents["annotations"]:
        annotation["category_id"] = 10 - annotation["category_id"]
    contents["categories"] = [{"id": 3, "name": "pole"}, {"id": 7, "name": "ship"}]
    return contents


@pytest.mark.parametrize("in_python", [False, True])
def test_other_order_of_classes_is_matched_by_name(
    tmp_path: Path, in_python: bool, caplog: pytest.LogCaptureFixture
) -> None:
    argument = write_dataset(tmp_path, make_contents(), "train")
    register_datasets([f"train={argument}"])
    register(tmp_path, reordered(), "more", in_python)
    register(tmp_path, reordered(), "test", in_python)
    with caplog.at_level(logging.WARNING):
        build_train_loader(config(["train", "more"], ["test"]))
    assert "(ship, pole) and (pole, ship): they are matched by name" in caplog.text
    assert get_records(["more"]) == get_records(["train"])
    assert score("test", tmp_path, ["ship", "pole"]) == pytest.approx(100)
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in results} == {3, 7}  # those of the test set's file


def test_other_order_of_classes_is_matched_for_scoring_alone(tmp_path: Path) -> None:
    for name, contents in (("train", make_contents()), ("test", reordered())):
        register(tmp_path, contents, name)
    prepare_datasets(config(["train"], ["test"]), eval_only=True)
    assert score("test", tmp_path, ["ship", "pole"]) == pytest.approx(100)


def test_other_classes_are_refused_with_both_lists(tmp_path: Path) -> None:
    one = make_contents()
    one["categories"] = one["categories"][:1]
    one["annotations"] = one["annotations"][::2]
    register(tmp_path, make_contents(), "train")
    register(tmp_path, one, "test")
    with pytest.raises(DataError, match=r"'train' and 'test' .* \(ship, pole\) and \(pole\)"):
        check_num_classes(config(["train"], ["test"]))
    check_num_classes(config(["train"], ["test"], 1), eval_only=True)


@pytest.mark.parametrize(
    ("architecture", "node"),
    [("GeneralizedRCNN", "ROI_HEADS"), ("RetinaNet", "RETINANET"), ("GARetinaNet", "RETINANET")],
)
def test_number_of_classes(architecture: str, node: str) -> None:
    cfg = config(["ga_shapes_train"], ["ga_shapes_val", "misspelt"], 5)
    cfg.MODEL.META_ARCHITECTURE = architecture
    check_num_classes(cfg)
    assert "misspelt" not in MetadataCatalog
    cfg.MODEL[node].NUM_CLASSES = 80
    message = rf"MODEL\.{node}\.NUM_CLASSES is 80, but .*'ga_shapes_train' has 5 .* to 5"
    with pytest.raises(DataError, match=message):
        check_num_classes(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_num_classes(cfg)


# ----------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "is not a COCO detection JSON"),
        ({**make_contents(), "images": {}}, "no list 'images'"),
        ({**make_contents(), "images": []}, "'images' is empty"),
        ({**make_contents(), "annotations": [1]}, r"annotations\[0\] is 1, not an object"),
        (changed("annotations", 0, bbox=None), r"annotations\[0\] has no 'bbox'"),
        (changed("annotations", 0, bbox=[1, 2, float("inf"), 3]), r"has the bbox \[1, 2, Inf"),
        (changed("annotations", 0, bbox=["1", 2, 3, 4]), "not four finite numbers"),
        (changed("annotations", 0, category_id=8), "category_id 8, which is not among"),
        (changed("annotations", 0, iscrowd=2), "has the iscrowd 2, which is not 0 or 1"),
        (changed("annotations", 0, segmentation=[5]), "not a list of polygons or an RLE"),
        (changed("annotations", 0, segmentation={"size": [4, 6]}), "of polygons or an RLE"),
        (changed("annotations", 0, keypoints=[1, 2]), "is not a list of x, y, visibility"),
        (changed("images", 0, file_name=3), r"images\[0\] has the file_name 3"),
        (changed("images", 0, height=0), r"images\[0\] has the height 0"),
        (changed("images", 0, width=4.5), r"images\[0\] has the width 4\.5"),
        (changed("images", 1, id="b"), r"images\[1\] has the id 'b', but images\[0\] 1; all"),
        (changed("categories", 0, name=3), r"categories\[0\] has the name 3"),
        (changed("categories", 0, keypoints=[7]), "which is not a list of names"),
        (added("images", 0), "image id 1 is used 2 times"),
        (added("annotations", 0), "annotation id 1 is used 2 times"),
        (added("categories", 0), "category id 7 is used 2 times"),
    ],
)
def test_unusable_file_is_refused_by_entry(tmp_path: Path, contents: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"dataset 'set': .*set\.json.*{message}"):
        register(tmp_path, contents)


def test_unusable_file_registered_in_python_is_refused(tmp_path: Path) -> None:
    contents = changed("annotations", 0, bbox=[1, 2])
    contents["annotations"][1]["bbox"] = None
    with pytest.raises(DataError, match=r"'set': .*annotations\[0\] has the bbox .* \(2 errors;"):
        register(tmp_path, contents, in_python=True)
