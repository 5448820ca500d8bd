"""The registered splits: drawn at the first use, by whoever comes first, whole or not at all."""

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
TINY = Split("tiny", seed=1, num_images=5)


@pytest.mark.slow
def test_two_processes_at_the_same_time(tmp_path):
    """Registration alone touches no file; then one process draws and the other waits."""
    cache = tmp_path / "cache"
    code = (
        "import logging, os, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout)\n"
        "import ga_detectron2.data; from detectron2.data import DatasetCatalog\n"
        f"print('drawn', os.path.exists('{cache}/{SPLITS[1].folder_name}'))\n"
        "sys.stdin.readline()\n"
        "print('images', len(DatasetCatalog.get('ga_shapes_val')))"
    )
    environment = {**os.environ, CACHE_VARIABLE: str(cache), "PYTHONPATH": str(PROJECT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "drawn False\n"
    assert not cache.exists()
    outputs = []
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(process.communicate(timeout=600)[0])
        assert process.returncode == 0
    assert all("images 200" in output for output in outputs)
    assert sum("Drawing the 200 images" in output for output in outputs) == 1
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [SPLITS[1].folder_name]


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


def test_uris_open_like_files(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(embedded, "SPLITS", [Split("val", seed=2, num_images=3)])
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
    with pytest.raises(FileNotFoundError, match=r"ga_shapes://val"):
        PathManager.get_local_path("ga_shapes://test/annotations.json")
    before = metadata.as_dict()
    register_embedded_datasets()
    assert MetadataCatalog.get("ga_shapes_val").as_dict() == before


def test_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    # A name that is not UTF-8 would crash OpenCV's imwrite.
    tmp_path = tmp_path / "nonutf\udcff"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))

    def full(path, *args, **keys):
        return open("/dev/full" if "000003" in path else path, *args, **keys)

    with monkeypatch.context() as broken:
        broken.setattr(embedded, "open", full, raising=False)
        with pytest.raises(OSError, match=rf"ga_shapes_tiny .* {CACHE_VARIABLE}"):
            drawn_folder(TINY)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    # A folder without annotations is left over from an interrupted run, and drawn again.
    (tmp_path / TINY.folder_name).mkdir()
    folder = Path(drawn_folder(TINY))
    assert len(list((folder / "images").iterdir())) == 5
    assert len(json.loads((folder / "annotations.json").read_text())["images"]) == 5


def test_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OSError, match=rf"{tmp_path / 'file'}.* {CACHE_VARIABLE}"):
        drawn_folder(TINY)
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    assert Path(drawn_folder(TINY)) == tmp_path / "ga_detectron2" / TINY.folder_name
