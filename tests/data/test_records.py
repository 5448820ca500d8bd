"""Records to train and score, with and without stored proposals, against detectron2's own."""

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.structures import BoxMode
from PIL import Image

from ga_detectron2.data import build_test_loader, build_train_loader
from ga_detectron2.data.coco import NO_MASK
from ga_detectron2.data.records import get_records, records_to_train
from ga_detectron2.data.seeds import seeded
from ga_detectron2.errors import DataError

NAMES = ("ga_records_test_a", "ga_records_test_b")


class Harm:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def data(tmp_path: Path):
    """Two sets of four images; the ids are the same in both. The last image of each is empty."""
    for name in NAMES:
        records = []
        for i in range(4):
            path = str(tmp_path / f"{name}{i}.png")
            Image.new("RGB", (40, 30)).save(path)
            box = {"bbox": [2, 2, 20, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
            records.append({"file_name": path, "image_id": i, "width": 40, "height": 30,
                            "annotations": [box] if i < 3 else []})  # fmt: skip
        DatasetCatalog.register(name, lambda records=records: [dict(r) for r in records])
        MetadataCatalog.get(name).thing_classes = ["cat"]
    yield
    for name in NAMES:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def make_content(seed: int, ids: Any = range(5)) -> dict[str, Any]:
    """As detectron2 documents it, with equal scores, an image without proposals, and one more."""
    rng = np.random.default_rng(seed)
    ids = [*ids]
    numbers = [0 if i == 1 else 30 for i in range(len(ids))]
    scale, least = [9, 9, 0, 0], [0, 0, 20, 20]
    return {
        "ids": ids,
        "boxes": [(rng.random((n, 4)) * scale + least).astype(np.float32) for n in numbers],
        "objectness_logits": [rng.integers(0, 5, n).astype(np.float32) for n in numbers],
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }  # fmt: skip


def write(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return str(path)


def assert_equal(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys() > {"proposal_boxes", "proposal_objectness_logits"}
        for key in a:
            assert type(a[key]) is type(b[key])
            np.testing.assert_array_equal(a[key], b[key], key, strict=True)


@pytest.mark.parametrize("filter_empty", [True, False])
@pytest.mark.parametrize("ids", [range(5), "01234"])
def test_records_are_detectron2s(tmp_path: Path, filter_empty: bool, ids: Any) -> None:
    files = [write(tmp_path / f"{i}.pkl", make_content(i, ids)) for i in range(2)]
    for n in (1, 2):
        expected = get_detection_dataset_dicts(NAMES[:n], filter_empty, proposal_files=files[:n])
        assert_equal(get_records(NAMES[:n], filter_empty, proposal_files=files[:n]), expected)
    assert not any("proposal_boxes" in r for r in get_records(NAMES[:1]))


def test_older_names_and_sides_for_corners(tmp_path: Path) -> None:
    content = make_content(0)
    old = {"indexes": content["ids"], "scores": content["objectness_logits"],
           "boxes": content["boxes"]}  # fmt: skip
    sides = {**content, "bbox_mode": BoxMode.XYWH_ABS.value}
    sides["boxes"] = [b - np.pad(b[:, :2], ((0, 0), (2, 0))) for b in content["boxes"]]
    (good,), (older,), (other,) = (
        [get_records(NAMES[:1], proposal_files=[write(tmp_path / "p.pkl", x)])]
        for x in (content, old, sides)
    )
    assert_equal(older, good)
    for a, b in zip(other, good, strict=True):
        assert a["proposal_bbox_mode"] == BoxMode.XYXY_ABS
        np.testing.assert_allclose(a["proposal_boxes"], b["proposal_boxes"], atol=1e-5)


BOX = {"bbox": [2, 2, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}


@pytest.mark.parametrize(
    ("annotations", "min_keypoints", "reason"),
    [
        ([], 0, "no annotations"),
        ([{**BOX, "iscrowd": 1}], 0, "crowds"),
        ([{**BOX, "keypoints": [4, 4, 2]}], 2, "fewer than 2 visible keypoints"),
    ],
)
def test_nothing_to_learn_from(annotations: list, min_keypoints: int, reason: str) -> None:
    records = [{**r, "annotations": annotations} for r in DatasetCatalog.get(NAMES[0])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DatasetCatalog.data, NAMES[0], lambda: records)
        MetadataCatalog.get(NAMES[0]).source_file = "some/where.json"
        message = rf"'{NAMES[0]}' \(some/where\.json\).*{reason}.*FILTER_EMPTY_ANNOTATIONS"
        with pytest.raises(DataError, match=message):
            get_records(NAMES[:1], min_keypoints=min_keypoints)
        if not min_keypoints:
            assert get_records(NAMES[:1], filter_empty=False) == records
            assert get_records(NAMES) == get_detection_dataset_dicts(NAMES[1])


def config(file: str) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = NAMES[:1]
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = (file,)
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = 20
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.SEED = 3
    return cfg


def with_annotations(*annotations: dict[str, Any]) -> CfgNode:
    """A configuration whose training set is one image with these annotations."""
    record = {**DatasetCatalog.get(NAMES[0])[0], "annotations": list(annotations)}
    DatasetCatalog.remove(NAMES[0])
    DatasetCatalog.register(NAMES[0], lambda: [record])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = NAMES[:1]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    return cfg


POLYGON = {**BOX, "segmentation": [[2, 2, 20, 2, 20, 20]]}
RLE = {**BOX, "segmentation": mask_util.frPyObjects(POLYGON["segmentation"], 30, 40)[0]}


@pytest.mark.parametrize(
    ("annotation", "mask_format", "message"),
    [
        (BOX, "polygon", r"an object has no segmentation, .*MODEL\.MASK_ON"),
        (RLE, "polygon", r"is a mask \(RLE\).* set INPUT\.MASK_FORMAT bitmask"),
        (RLE, "bitmask", None),
        ({**BOX, "iscrowd": 1}, "polygon", None),
    ],
)
def test_masks_are_checked_before_training(
    annotation: dict, mask_format: str, message: str | None
) -> None:
    cfg = with_annotations(annotation, POLYGON)
    cfg.INPUT.MASK_FORMAT = mask_format
    records_to_train(cfg)
    cfg.MODEL.MASK_ON = True
    records_to_train(cfg, has_own_mapper=True)
    if message is None:
        records_to_train(cfg)
    else:
        with pytest.raises(DataError, match=rf"{NAMES[0]}0\.png: .*{message}"):
            records_to_train(cfg)


def test_objects_with_degenerate_polygons_have_a_box_but_no_mask() -> None:
    cfg = with_annotations({**BOX, NO_MASK: 1}, POLYGON)
    assert len(records_to_train(cfg)[0]["annotations"]) == 2
    cfg.MODEL.MASK_ON = True
    assert records_to_train(cfg)[0]["annotations"] == [POLYGON]


@pytest.mark.parametrize("wrong", [1, -1])
def test_unknown_classes_are_refused_before_an_image_is_read(wrong: int) -> None:
    cfg = with_annotations({**BOX, "category_id": wrong})
    with pytest.raises(DataError, match=rf"'{NAMES[0]}': .*invalid category_id={wrong}"):
        records_to_train(cfg)
    del MetadataCatalog.get(NAMES[0]).thing_classes  # detectron2 examines no classes without it.
    message = (
        rf"{NAMES[0]}0\.png: an object is of class {wrong} \(category_id\), but "
        r"MODEL\.ROI_HEADS\.NUM_CLASSES is 1: classes must be from 0 to 0"
    )
    with pytest.raises(DataError, match=message):
        records_to_train(cfg)
    records_to_train(cfg, has_own_mapper=True)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # It has no classes.
    records_to_train(cfg)
    records_to_train(with_annotations({**BOX, "category_id": wrong, "iscrowd": 1}, BOX))


def test_loaders_give_detectron2s_proposals(tmp_path: Path) -> None:
    cfg = config(write(tmp_path / "p.pkl", make_content(0)))
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"  # loads the data once more
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []
    cfg.INPUT.RANDOM_FLIP = "none"
    with seeded(cfg.SEED):
        theirs = build_detection_train_loader(cfg)
    found = itertools.chain(build_test_loader(cfg, NAMES[0]),
                            itertools.islice(build_train_loader(cfg), 6))  # fmt: skip
    expected = itertools.chain(build_detection_test_loader(cfg, NAMES[0]),
                               itertools.islice(theirs, 6))  # fmt: skip
    for (a,), (b,) in zip(found, expected, strict=True):
        assert a["image_id"] == b["image_id"]
        ours, other = a["proposals"], b["proposals"]
        assert ours.proposal_boxes.tensor.equal(other.proposal_boxes.tensor)
        assert ours.objectness_logits.equal(other.objectness_logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [0], "boxes": [np.zeros((1, 4))], "objectness_logits": [np.zeros(1)]},
         r"has no proposals for image 1 \(.*_a1\.png\)"),
        ({"bbox_mode": np.zeros(2)}, "must be 0"),
        ({"bbox_mode": 4}, "bbox_mode 4 must be 0"),
    ],
)  # fmt: skip
def test_no_loader_takes_bad_files(tmp_path: Path, changes: dict, message: str) -> None:
    cfg = config(write(tmp_path / "p.pkl", {**make_content(0), **changes}))
    for load in (build_train_loader, lambda cfg: build_test_loader(cfg, NAMES[0])):
        with pytest.raises(DataError, match=rf"p\.pkl: .*{message}"):
            load(cfg)


def test_loaders_execute_no_pickled_code(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    file = write(tmp_path / "p.pkl", {**make_content(0), "x": Harm(harm)})
    for load in (build_train_loader, lambda cfg: build_test_loader(cfg, NAMES[0])):
        with pytest.raises(DataError, match=r"contains pickled code \('.*mkdir'\).*not run"):
            load(config(file))
    assert not harm.exists()
    get_detection_dataset_dicts(NAMES[0], proposal_files=[file])
    assert harm.is_dir(), "the pickle must be one that does harm"
