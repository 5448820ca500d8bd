"""The Python code of the pages runs, with small models and without downloads."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config.defaults import _C
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer

from tests.docs.pages import PROJECT, code_blocks, pages

NOT_RUN = {
    "docs/export.md": "needs an exported model",
    "docs/steel_defects.md": "run by tests/recipes/test_steel_defects.py",
    "docs/tutorial.ipynb": "run as a notebook",
}
PAGES = [
    name
    for page in pages()
    if (name := str(page.relative_to(PROJECT))) not in NOT_RUN and code_blocks(page, "python")
]
SMALL = [
    *("MODEL.FPN.OUT_CHANNELS", 16, "SOLVER.MAX_ITER", 2),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0),
]


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a photograph, a dataset of three classes, and a config."""
    monkeypatch.chdir(tmp_path)
    for key in ("train", "val"):
        annotations = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 64, "width": 96}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 2, "bbox": [8, 8, 40, 40], "iscrowd": 0,
                 "area": 1600}
            ],
            "categories": [{"id": i, "name": f"pole{i}"} for i in (1, 2, 3)],
        }  # fmt: skip
        path = tmp_path / "poles" / f"{key}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(annotations))
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    (tmp_path / "poles" / "images").mkdir()
    cv2.imwrite("poles/images/a.jpg", image)
    cv2.imwrite("street.jpg", image)
    Path("my_project.yaml").write_text("MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 3\n")


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_C.MODEL, "DEVICE", "cpu")
    for owner in (DefaultTrainer, DefaultPredictor):
        original = owner.__init__

        def init(self, cfg, original=original):
            cfg.merge_from_list(SMALL)
            original(self, cfg)

        monkeypatch.setattr(owner, "__init__", init)
    monkeypatch.setattr(DetectionCheckpointer, "load", lambda *_args, **_keys: {})


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("_project", "_small")
def test_snippets_run_in_order(page: str) -> None:
    names: dict = {}
    try:
        for number, code in enumerate(code_blocks(PROJECT / page, "python")):
            exec(compile(code, f"{page}, snippet {number}", "exec"), names)
    finally:
        for name in [n for n in DatasetCatalog.list() if n.startswith("poles_")]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
