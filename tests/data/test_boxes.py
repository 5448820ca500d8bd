"""Boxes that detectron2's ROI heads die of are told when an image is loaded."""

import math
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes
from PIL import Image

from ga_detectron2.data import build_train_loader
from ga_detectron2.data.boxes import BoxCheckedMapper, BoxError

NAME = "ga_boxes_test"
BAD = [
    [math.nan, 1, 9, 9],
    [1, 1, math.inf, 9],
    [-math.inf, 1, 9, 9],
    [9, 1, 5, 9],
    [1, 9, 9, 5],
    [9, 9, 5, 5],
    [-1e8, -1e8, 1e8, 1e8],
    [0, 0, 9, 1e4],
]


@pytest.fixture
def cfg(tmp_path):
    path = str(tmp_path / "cat.png")
    Image.new("RGB", (40, 30)).save(path)
    annotation = {"bbox": [2, 2, 20, 20], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    record = {"file_name": path, "image_id": 1, "width": 40, "height": 30}
    DatasetCatalog.register(NAME, lambda: [{**record, "annotations": [annotation]}] * 2)
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    yield cfg
    DatasetCatalog.remove(NAME)


class Mapper:
    """Puts a box into every image, behind detectron2's back."""

    def __init__(self, cfg: Any, box: list[float]):
        self.default = DatasetMapper(cfg, True)
        self.box = box

    def __call__(self, record: dict) -> dict:
        result = self.default(record)
        result["instances"].gt_boxes.tensor[0] = torch.tensor(self.box)
        return result


@pytest.mark.parametrize("box", BAD, ids=str)
def test_bad_boxes_of_a_mapper_of_ones_own(cfg: Any, box: list[float]) -> None:
    with pytest.raises(BoxError, match=r"cat\.png: an object has the box .*40 x 30") as error:
        next(iter(build_train_loader(cfg, Mapper(cfg, box))))
    assert "\n" not in str(error.value)
    cfg.MODEL.META_ARCHITECTURE = "GARetinaNet"  # It leaves them out itself.
    next(iter(build_train_loader(cfg, Mapper(cfg, box))))


@pytest.mark.parametrize("workers", [0, 1])
def test_it_names_the_file_also_from_a_process_that_loads(cfg: Any, workers: int) -> None:
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(BoxError) as error:
        next(iter(build_train_loader(cfg, Mapper(cfg, [9, 9, 5, 5]))))
    assert "cat.png: an object has the box [9.0, 9.0, 5.0, 5.0] (x1" in str(error.value)


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [5, 5, 5, 9], [5, 5, 5, 5], [-9, -9, 60, 45]])
def test_boxes_that_roi_heads_can_take(cfg: Any, box: list[float]) -> None:
    batch = next(iter(build_train_loader(cfg, Mapper(cfg, box))))
    assert batch[0]["instances"].gt_boxes.tensor.tolist() == [box]


def test_what_has_no_such_boxes_is_passed_over() -> None:
    rotated = Instances((4, 4), gt_boxes=RotatedBoxes(torch.full((1, 5), -1e9)))
    empty = Instances((4, 4), gt_boxes=Boxes([]))
    for result in (None, {}, {"instances": Instances((4, 4))}, {"instances": empty},
                   {"instances": rotated}):  # fmt: skip
        assert BoxCheckedMapper(lambda _, result=result: result)({}) is result
