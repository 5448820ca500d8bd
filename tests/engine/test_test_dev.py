"""From images without annotations to a file for COCO's evaluation server."""

import json
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def image_info(tiny_dataset: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Name and JSON file of a registered dataset without annotations."""
    json_file, folder = tiny_dataset.removeprefix("ga_tiny=").rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    del contents["annotations"]
    contents["categories"] = [{"id": 4, "name": "red"}, {"id": 9, "name": "green"}]
    path = tmp_path / "image_info.json"
    path.write_text(json.dumps(contents))
    name = f"coco_tiny_test_dev_{tmp_path.name}"
    register_coco_instances(name, {}, str(path), folder)
    yield name, path
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_results_can_be_submitted(
    arguments: Callable,
    image_info: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    name, json_file = image_info
    weights = tmp_path / "weights.pth"
    # With a threshold of 0, an untrained model finds something everywhere.
    call = arguments("ga_faster_R_50", "--eval-only", MODEL__WEIGHTS=weights,
                     MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.0, MODEL__FPN__OUT_CHANNELS=32,
                     DATASETS__TRAIN="()", DATASETS__TEST=f"('{name}',)")  # fmt: skip
    torch.manual_seed(0)
    model = build_model(load_config(call[1], call[5:], [call[3]]))
    torch.save({"model": model.state_dict(), "__author__": "test"}, weights)
    runpy.run_path(str(PROJECT / "tools" / "train_net.py"))["main"](call)
    results = tmp_path / "output" / "inference" / "coco_instances_results.json"
    assert {x["category_id"] for x in json.loads(results.read_text())} <= {4, 9}
    capsys.readouterr()
    check = runpy.run_path(str(PROJECT / "tools" / "check_results.py"))["main"]
    check([str(results), "--annotations", str(json_file)])
    assert re.search(r"can be uploaded: [1-9]\d* detections", capsys.readouterr().out)
