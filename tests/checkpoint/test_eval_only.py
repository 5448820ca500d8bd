"""``train_net.py --eval-only`` on MMDetection's own files: the reference detectors' results.

The files have all the tensors of the published ones. Their values are a function of each tensor's
name (``weights_rule.py``), apart from the last layers, which the reference holds, as it does the
image and the results on it.
"""

import json
import runpy

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from ga_detectron2.checkpoint.safe_pickle import load_numpy_pickle

from .reference import PROJECT, SHAPES, config_of

REFERENCE = PROJECT / "tests" / "reference"
tensor_for = runpy.run_path(str(REFERENCE / "weights_rule.py"))["tensor_for"]


@pytest.fixture
def evaluate(tmp_path):
    """Write file, image and annotations of a reference detector, and evaluate it on them."""
    registered = []

    def call(name, respell=None):
        with np.load(REFERENCE / "models" / f"{name}.npz") as file:
            arrays = dict(file)
        tensors = {
            k: tensor_for(k, shape, int(arrays["seed"])) for k, shape in SHAPES[name].items()
        }
        for key, value in arrays.items():
            if key.startswith("weight."):
                tensors[key.removeprefix("weight.")] = torch.from_numpy(value)
        if respell is not None:
            tensors = {respell(k): v for k, v in tensors.items()}
        torch.save({"state_dict": tensors, "meta": {"epoch": 12}}, tmp_path / "foreign.pth")

        (tmp_path / "images").mkdir()
        assert arrays["image"].dtype == np.uint8
        cv2.imwrite(str(tmp_path / "images" / "1.png"), arrays["image"])
        height, width = arrays["image"].shape[:2]
        box = [10, 10, 100, 100]
        annotations = {
            "images": [{"id": 1, "file_name": "1.png", "height": height, "width": width}],
            "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(80)],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1e4, "iscrowd": 0}
            ],
        }
        (tmp_path / "annotations.json").write_text(json.dumps(annotations))
        registered.append(name)
        script = runpy.run_path(str(PROJECT / "tools" / "train_net.py"))
        script["main"](
            [
                *("--eval-only", "--config-file", str(config_of(name))),
                *("--dataset", f"{name}={tmp_path}/annotations.json:{tmp_path}/images"),
                *("MODEL.WEIGHTS", str(tmp_path / "foreign.pth")),
                *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "output")),
                *("DATASETS.TEST", f"('{name}',)", "DATALOADER.NUM_WORKERS", "0"),
                *("INPUT.MIN_SIZE_TEST", str(height)),
            ]
        )
        return arrays, tmp_path / "output" / "inference"

    yield call
    for name in registered:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def assert_same(boxes, scores, classes, arrays):
    """The same results, in whatever order those of nearly equal scores come."""
    assert len(boxes) == len(arrays["boxes"])
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(scores[order], np.sort(arrays["scores"])[::-1], atol=1e-4, rtol=1e-3)
    difference = np.abs(boxes[:, None] - arrays["boxes"][None]).max(axis=2)
    difference += 1e3 * (classes[:, None] != arrays["classes"][None])
    assert difference.min(axis=0).max() < 0.05
    assert difference.min(axis=1).max() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ga-faster-rcnn_r50-caffe_fpn_1x_coco", "ga-retinanet_r50-caffe_fpn_1x_coco"]
)
def test_detector(evaluate, name):
    arrays, folder = evaluate(name)
    found = json.loads((folder / "coco_instances_results.json").read_text())
    boxes = np.array([result["bbox"] for result in found])
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([result["score"] for result in found])
    classes = np.array([result["category_id"] - 1 for result in found])
    assert_same(boxes, scores, classes, arrays)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["rpn_head.", "bbox_head."])
def test_proposals(evaluate, spelling):
    """By the file as MMDetection 2 writes it, and as MMDetection 3 does, from parallel training."""
    arrays, folder = evaluate(
        "ga-rpn_r50-caffe_fpn_1x_coco",
        lambda name: f"module.{name.replace('rpn_head.', spelling)}",
    )
    with open(folder / "box_proposals.pkl", "rb") as file:
        found = load_numpy_pickle(file)
    boxes, logits = found["boxes"][0], found["objectness_logits"][0]
    assert_same(boxes, 1 / (1 + np.exp(-logits)), np.zeros(len(boxes)), arrays)
