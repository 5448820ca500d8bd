"""Classes that a model does not have are told before it gets to see them."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from ga_detectron2.data import ClassError, build_train_loader, check_num_classes
from ga_detectron2.data.classes import ClassCheckedMapper, ModelClasses, check_record_classes

NAME = "ga_classes_test"


def make_cfg(
    architecture: str, node: str, num_classes: int, test: tuple[str, ...] = ("ga_shapes_val",)
) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("ga_shapes_train",), test
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL[node].NUM_CLASSES = num_classes
    return cfg


@pytest.mark.parametrize(
    ("architecture", "node"),
    [("GeneralizedRCNN", "ROI_HEADS"), ("RetinaNet", "RETINANET"), ("GARetinaNet", "RETINANET")],
)
def test_num_classes(architecture: str, node: str) -> None:
    check_num_classes(make_cfg(architecture, node, 5))
    message = rf"MODEL\.{node}\.NUM_CLASSES is 80, but .*'ga_shapes_train' has 5 .* to 5"
    with pytest.raises(ValueError, match=message):
        check_num_classes(make_cfg(architecture, node, 80))


def test_num_classes_of_the_test_set_count_too() -> None:
    MetadataCatalog.get(NAME).thing_classes = ["cat", "dog"]
    with pytest.raises(ValueError, match=rf"'{NAME}' has 2 classes"):
        check_num_classes(make_cfg("GeneralizedRCNN", "ROI_HEADS", 5, test=(NAME,)))
    MetadataCatalog.remove(NAME)


def test_num_classes_of_proposal_models_and_unknown_sets() -> None:
    check_num_classes(make_cfg("ProposalNetwork", "ROI_HEADS", 80))
    check_num_classes(make_cfg("GeneralizedRCNN", "ROI_HEADS", 5, test=("misspelt",)))
    assert "misspelt" not in MetadataCatalog


@pytest.fixture
def records(tmp_path):
    """Of a function of one's own, as detectron2's tutorial writes them: two images, two boxes."""
    records = []
    for i in range(2):
        path = str(tmp_path / f"cat{i}.png")
        Image.new("RGB", (40, 30)).save(path)
        annotations = [
            {"bbox": [2, 2, 20 + k, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": k}
            for k in range(2)
        ]
        records.append({"file_name": path, "image_id": i, "width": 40, "height": 30,
                        "annotations": annotations})  # fmt: skip
    DatasetCatalog.register(NAME, lambda: records)
    yield records
    DatasetCatalog.remove(NAME)


def loader_of(architecture: str, mapper: Any = None, workers: int = 0) -> Any:
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    return build_train_loader(cfg, mapper)


@pytest.mark.parametrize(
    ("architecture", "node"),
    [("GARetinaNet", "RETINANET"), ("RetinaNet", "RETINANET"), ("GeneralizedRCNN", "ROI_HEADS")],
)
@pytest.mark.parametrize("wrong", [2, -1])
def test_before_an_image_is_read(
    records: list[dict], architecture: str, node: str, wrong: int
) -> None:
    loader_of(architecture)
    records[1]["annotations"][1]["category_id"] = wrong
    with pytest.raises(ClassError) as error:
        loader_of(architecture)
    assert str(error.value) == (
        f"{records[1]['file_name']}: an object is of class {wrong} (category_id), but "
        f"MODEL.{node}.NUM_CLASSES is 2: classes must be from 0 to 1"
    )
    loader_of("ProposalNetwork")  # It has no classes.
    records[1]["annotations"][1]["iscrowd"] = 1
    loader_of(architecture)


class Mapper:
    """Makes something else of the classes: all of the first image's are ``first``."""

    def __init__(self, first: int):
        self.first = first
        cfg = get_cfg()
        cfg.INPUT.MIN_SIZE_TRAIN = (30,)
        self.default = DatasetMapper(cfg, True)

    def __call__(self, record: dict) -> dict:
        result = self.default(record)
        if record["image_id"] == 0:
            result["instances"].gt_classes[:] = self.first
        else:
            result["instances"].gt_classes[:] = 0
        return result


@pytest.mark.parametrize("workers", [0, 1])
def test_as_images_are_loaded_by_a_mapper_of_ones_own(records: list[dict], workers: int) -> None:
    for record in records:
        record["annotations"][1]["category_id"] = 7  # The mapper changes it.
    assert len(next(iter(loader_of("GARetinaNet", Mapper(1), workers)))) == 2
    with pytest.raises(ClassError) as error:
        next(iter(loader_of("GARetinaNet", Mapper(2), workers)))
    assert str(error.value) == (
        f"{records[0]['file_name']}: an object is of class 2 (category_id), but "
        "MODEL.RETINANET.NUM_CLASSES is 2: classes must be from 0 to 1"
    )


def test_what_has_no_classes_is_passed_over() -> None:
    classes = ModelClasses(2, "MODEL.RETINANET.NUM_CLASSES")
    check_record_classes([{}, {"annotations": [{"bbox": [0, 0, 1, 1]}]}], classes)
    empty = Instances((4, 4), gt_boxes=Boxes([]), gt_classes=torch.zeros(0, dtype=torch.int64))
    for result in (None, {}, {"instances": Instances((4, 4))}, {"instances": empty}):
        assert ClassCheckedMapper(lambda _, result=result: result, classes)({}) is result
