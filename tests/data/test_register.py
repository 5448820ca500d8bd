"""COCO JSON files from the command line."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from pycocotools.coco import COCO

from ga_detectron2.data import (
    DatasetArgument,
    coco_subset,
    parse_dataset_argument,
    register_datasets,
)


@pytest.fixture(autouse=True)
def catalogs():
    """Takes out again what a test registered."""
    before = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog) - names:
            catalog.remove(name)


def make_contents() -> dict:
    return {
        "images": [
            {"id": 5, "file_name": "a.png", "height": 4, "width": 6},
            {"id": 9, "file_name": "b.png", "height": 4, "width": 6},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 7, "bbox": [0, 1, 2, 2], "area": 4}
            | {"iscrowd": 0},
        ],
        # As in COCO, ids need not start at 1, nor be in order.
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def files(tmp_path):
    """A JSON file and the folder of its images."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(b"")
    (tmp_path / "set.json").write_text(json.dumps(make_contents()))
    return tmp_path / "set.json", tmp_path / "images"


def test_parse():
    assert parse_dataset_argument("pets=a/b.json:c/d") == DatasetArgument("pets", "a/b.json", "c/d")
    # Colons and equal signs in the path of the JSON
    assert parse_dataset_argument("p=x:y=1/b.json:d") == DatasetArgument("p", "x:y=1/b.json", "d")


def test_parse_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    expected = DatasetArgument("p", "/home/me/a.json", "/home/me/images")
    assert parse_dataset_argument("p=~/a.json:~/images") == expected


@pytest.mark.parametrize("argument", ["", "pets", "pets=a.json", "=a.json:b", "pets=:b", "p=a: "])
def test_parse_refuses(argument):
    with pytest.raises(ValueError, match=r"NAME=ANNOTATIONS\.json:IMAGE_FOLDER"):
        parse_dataset_argument(argument)


def test_registered_set_loads(files):
    json_file, folder = files
    assert register_datasets([f"pets={json_file}:{folder}"]) == ["pets"]
    metadata = MetadataCatalog.get("pets")
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.evaluator_type == "coco"
    records = DatasetCatalog.get("pets")  # detectron2 sets the same metadata, or would raise
    assert [r["file_name"] for r in records] == [f"{folder}/a.png", f"{folder}/b.png"]
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[], [1]]


def test_the_same_again_is_no_error_but_another_is(files):
    json_file, folder = files
    argument = f"pets={json_file}:{folder}"
    assert register_datasets([argument]) == register_datasets([argument])
    with pytest.raises(ValueError, match="'pets' is already registered"):
        register_datasets([f"pets={json_file}:{folder.parent}"])
    with pytest.raises(ValueError, match="'coco_2017_val' is already registered"):
        register_datasets([f"coco_2017_val={json_file}:{folder}"])
    with pytest.raises(ValueError, match="'new' is given 2 times"):
        register_datasets([f"new={json_file}:{folder}"] * 2)


def test_missing_files(files):
    json_file, folder = files
    with pytest.raises(FileNotFoundError, match=r"'pets': there is no annotation file .*no\.json"):
        register_datasets([f"pets={json_file.parent}/no.json:{folder}"])
    with pytest.raises(FileNotFoundError, match=r"'pets': there is no image folder .*nowhere"):
        register_datasets([f"pets={json_file}:{folder}/nowhere"])
    with pytest.raises(FileNotFoundError, match=r"names the image a\.png, which is not in"):
        register_datasets([f"pets={json_file}:{folder.parent}"])


def test_one_wrong_argument_and_nothing_is_registered(files):
    json_file, folder = files
    with pytest.raises(FileNotFoundError):
        register_datasets([f"pets={json_file}:{folder}", f"others={json_file}:{folder}/nowhere"])
    assert "pets" not in DatasetCatalog


def without(key):
    contents = make_contents()
    del contents[key]
    return contents


def with_entry(key, **changes):
    contents = make_contents()
    contents[key][0] = {**contents[key][0], **changes}
    contents[key][0] = {k: v for k, v in contents[key][0].items() if v is not None}
    return contents


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "holds a list"),
        (without("images"), "no list 'images'"),
        ({**make_contents(), "annotations": {}}, "no list 'annotations'"),
        (without("categories"), "no list 'categories'"),
        ({**make_contents(), "images": []}, "'images' is empty"),
        ({**make_contents(), "annotations": [1]}, r"annotations\[0\] has no 'id'"),
        (with_entry("annotations", bbox=None), r"annotations\[0\] has no 'bbox'"),
        (with_entry("images", file_name=None), r"images\[0\] has no 'file_name'"),
        (with_entry("annotations", category_id=8), r"annotations\[0\] is of category 8"),
    ],
)
def test_json_that_is_not_coco_detection(files, contents, message):
    json_file, folder = files
    json_file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"'pets': .*set\.json is not a COCO .*{message}"):
        register_datasets([f"pets={json_file}:{folder}"])
    assert "pets" not in DatasetCatalog


def test_a_test_set_needs_no_annotations(files):
    json_file, folder = files
    json_file.write_text(json.dumps(without("annotations")))
    register_datasets([f"pets={json_file}:{folder}"])
    assert [r["annotations"] for r in DatasetCatalog.get("pets")] == [[], []]


def test_file_that_is_not_json(files):
    json_file, folder = files
    json_file.write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"set\.json is not a JSON file"):
        register_datasets([f"pets={json_file}:{folder}"])


def test_subset(files, tmp_path):
    json_file, _ = files
    out = tmp_path / "new" / "subset.json"
    coco_subset(str(json_file), str(out), [9])
    coco = COCO(str(out))
    assert coco.getImgIds() == [9]
    assert coco.getAnnIds() == [1]
    assert coco.getCatIds() == [7, 3]
    with pytest.raises(ValueError, match=r"set\.json holds no image with id 6, 7"):
        coco_subset(str(json_file), str(out), [7, 9, 6])
    with pytest.raises(ValueError, match="at least one image id"):
        coco_subset(str(json_file), str(out), [])


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.photographs
def test_photographs(shared_folder, tmp_path, split):
    coco_tiny = shared_folder / "data" / "coco_tiny"
    json_file = coco_tiny / "annotations" / f"instances_{split}.json"
    image_ids = sorted(COCO(str(json_file)).getImgIds())[:8]
    coco_subset(str(json_file), str(tmp_path / "eight.json"), image_ids)
    names = register_datasets(
        f"{name}={path}:{coco_tiny / split}"
        for name, path in (("tiny", json_file), ("eight", tmp_path / "eight.json"))
    )
    records, eight = (DatasetCatalog.get(name) for name in names)
    assert len(records) == 80
    assert len(MetadataCatalog.get("tiny").thing_classes) == 80
    assert MetadataCatalog.get("eight").thing_classes == MetadataCatalog.get("tiny").thing_classes
    # Eight photographs are the same as among the eighty, crowds and all.
    assert eight == [r for r in records if r["image_id"] in image_ids]
    image = read_image(eight[0]["file_name"], "BGR")
    assert image.shape[:2] == (eight[0]["height"], eight[0]["width"])
    assert np.ptp(image) > 100
