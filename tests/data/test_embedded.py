"""The registered splits: drawn at the first use, by whoever comes first, whole or not at all."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog, detection_utils
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.file_io import PathManager

from ga_detectron2.data import embedded, register_embedded_datasets
from ga_detectron2.data.embedded import CACHE_VARIABLE, SPLITS, Split, drawn_folder

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(module_cache, monkeypatch):
    """A cache folder that the tests share, so that each split is drawn once."""
    monkeypatch.setenv(CACHE_VARIABLE, str(module_cache))
    return module_cache


def start(code: str, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, CACHE_VARIABLE: str(cache), "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return output


@pytest.mark.slow
def test_registration_touches_no_file(tmp_path):
    code = "import ga_detectron2.data; from detectron2.data import DatasetCatalog as d; print(*d)"
    names = finish(start(code, tmp_path / "cache")).split()
    assert {"ga_shapes_train", "ga_shapes_val"} <= set(names)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_processes_at_the_same_time(tmp_path):
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "import ga_detectron2.data; from detectron2.data import DatasetCatalog\n"
        "print('images', len(DatasetCatalog.get('ga_shapes_val')))"
    )
    outputs = [finish(p) for p in [start(code, tmp_path) for _ in range(2)]]
    assert all("images 200" in output for output in outputs)
    assert sum("Drawing the 200 images" in output for output in outputs) == 1
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [SPLITS[1].folder_name]


def test_evaluator_without_the_data_gives_full_marks_to_the_truth(tmp_path, monkeypatch):
    """What --eval-only needs: nothing is drawn before the evaluator is made."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    evaluator = COCOEvaluator("ga_shapes_val", tasks=("bbox",), distributed=False)
    assert (tmp_path / SPLITS[1].folder_name / "annotations.json").is_file()
    evaluator.reset()
    for record in DatasetCatalog.get("ga_shapes_val"):
        instances = Instances((record["height"], record["width"]))
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    assert results["AP"] == pytest.approx(100)
    for name in MetadataCatalog.get("ga_shapes_val").thing_classes:
        assert results[f"AP-{name}"] == pytest.approx(100)


def test_uris_open_like_files(cache):
    metadata = MetadataCatalog.get("ga_shapes_val")
    with PathManager.open(metadata.json_file) as f:
        first = json.load(f)["images"][0]
    path = f"{metadata.image_root}/{first['file_name']}"
    assert detection_utils.read_image(path, "BGR").shape == (first["height"], first["width"], 3)
    assert PathManager.isfile(path)
    assert PathManager.exists(metadata.json_file)
    assert PathManager.isdir(metadata.image_root)
    with pytest.raises(ValueError, match="only be read"):
        PathManager.open(path, "w")
    with pytest.raises(FileNotFoundError, match=r"ga_shapes://train, ga_shapes://val"):
        PathManager.get_local_path("ga_shapes://test/annotations.json")


def test_registering_twice_and_importing_again(cache):
    before = MetadataCatalog.get("ga_shapes_val").as_dict()
    register_embedded_datasets()
    importlib.reload(embedded)
    embedded.register_embedded_datasets()
    assert MetadataCatalog.get("ga_shapes_val").as_dict() == before
    assert len(DatasetCatalog.get("ga_shapes_val")) == 200


def test_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    # A name that is not UTF-8 would crash OpenCV's imwrite.
    tmp_path = tmp_path / "nonutf\udcff"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    split = Split("tiny", seed=1, num_images=5)

    def full(path, *args, **keys):
        return open("/dev/full" if "000003" in path else path, *args, **keys)

    with monkeypatch.context() as broken:
        broken.setattr(embedded, "open", full, raising=False)
        with pytest.raises(OSError, match=rf"ga_shapes_tiny .* {CACHE_VARIABLE}"):
            drawn_folder(split)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    # A folder without annotations is left over from an interrupted run, and drawn again.
    (tmp_path / split.folder_name).mkdir()
    folder = Path(drawn_folder(split))
    assert len(list((folder / "images").iterdir())) == 5
    assert len(json.loads((folder / "annotations.json").read_text())["images"]) == 5


def test_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OSError, match=rf"{tmp_path / 'file'}.* {CACHE_VARIABLE}"):
        drawn_folder(Split("tiny", seed=1, num_images=1))


def test_without_the_variable_drawings_go_to_the_cache_of_iopath(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    split = Split("tiny", seed=1, num_images=1)
    assert Path(drawn_folder(split)) == tmp_path / "ga_detectron2" / split.folder_name
