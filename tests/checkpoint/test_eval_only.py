"""``train_net.py --eval-only`` on MMDetection's own file: the reference detector's results.

The file has all the tensors of the published one. Their values are a function of each tensor's
name (``weights_rule.py``), apart from the last layers, which the reference holds, as it does the
image and the results on it.
"""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.scripts import load_script

from .reference import PROJECT, SHAPES, config_of

REFERENCE = PROJECT / "tests" / "reference"
NAME = "ga-faster-rcnn_r50-caffe_fpn_1x_coco"


def write_dataset(folder: Path, image: np.ndarray) -> str:
    """An argument of --dataset for one image of COCO's classes."""
    assert image.dtype == np.uint8
    cv2.imwrite(str(folder / "1.png"), image)
    height, width = image.shape[:2]
    box = {"bbox": [10, 10, 100, 100], "area": 1e4, "iscrowd": 0}
    contents = {
        "images": [{"id": 1, "file_name": "1.png", "height": height, "width": width}],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(80)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
    }
    (folder / "annotations.json").write_text(json.dumps(contents))
    return f"{NAME}={folder}/annotations.json:{folder}"


@pytest.mark.slow
def test_results_are_those_of_the_reference(tmp_path: Path) -> None:
    with np.load(REFERENCE / "models" / f"{NAME}.npz") as file:
        arrays = dict(file)
    tensor_for = runpy.run_path(str(REFERENCE / "weights_rule.py"))["tensor_for"]
    seed = int(arrays["seed"])
    tensors = {name: tensor_for(name, shape, seed) for name, shape in SHAPES[NAME].items()}
    for key, value in arrays.items():
        if key.startswith("weight."):
            tensors[key.removeprefix("weight.")] = torch.from_numpy(value)
    content = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": content, "meta": {"epoch": 12}}, tmp_path / "foreign.pth")
    load_script("train_net").main(
        [
            *("--eval-only", "--config-file", str(config_of(NAME))),
            *("--dataset", write_dataset(tmp_path, arrays["image"])),
            *("MODEL.WEIGHTS", str(tmp_path / "foreign.pth"), "MODEL.DEVICE", "cpu"),
            *("DATASETS.TEST", f"('{NAME}',)", "DATALOADER.NUM_WORKERS", "0"),
            *("INPUT.MIN_SIZE_TEST", str(arrays["image"].shape[0])),
            *("OUTPUT_DIR", str(tmp_path / "output")),
        ]
    )
    file = tmp_path / "output" / "inference" / "coco_instances_results.json"
    found = json.loads(file.read_text())
    boxes = np.array([result["bbox"] for result in found])
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([result["score"] for result in found])
    classes = np.array([result["category_id"] - 1 for result in found])
    # In whatever order results of nearly equal scores come.
    assert len(boxes) == len(arrays["boxes"])
    expected = np.sort(arrays["scores"])
    np.testing.assert_allclose(np.sort(scores), expected, atol=1e-4, rtol=1e-3)
    difference = np.abs(boxes[:, None] - arrays["boxes"][None]).max(axis=2)
    difference += 1e3 * (classes[:, None] != arrays["classes"][None])
    assert difference.min(axis=0).max() < 0.05
    assert difference.min(axis=1).max() < 0.05
