"""Training and the demo write into the output and cache folders, and nowhere else."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = PROJECT / "configs" / "small" / "ga_rpn_R_18.yaml"
KEYS = {
    "MODEL.DEVICE": "cpu",
    "DATASETS.TRAIN": "('ga_written',)",
    "DATASETS.TEST": "('ga_written',)",
    "DATALOADER.NUM_WORKERS": "1",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "2",
    "SOLVER.STEPS": "()",
    "SEED": "1",
}


@dataclass
class Place:
    """Folders of one test: a home, a current folder and one for temporary files, all empty."""

    root: Path

    def __post_init__(self) -> None:
        for name in ("home", "work", "tmp", "data", "cache"):
            (self.root / name).mkdir()

    def run(self, script: str, *arguments: str) -> None:
        kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "VIRTUAL_ENV")
        env = {k: os.environ[k] for k in kept if k in os.environ}
        env |= {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp")}
        env |= {"GA_DETECTRON2_CACHE": str(self.root / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        env |= {"AUDIT_LOG": str(self.root / "log")}
        env |= {"PYTHONPATH": f"{PROJECT / 'tests' / 'supply' / 'audit'}{os.pathsep}{PROJECT}"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(PROJECT / "tools" / script), *arguments],
            cwd=self.root / "work",
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def files(self, folder: str) -> set[str]:
        base = self.root / folder
        return {str(p.relative_to(base)) for p in base.rglob("*") if not p.is_dir()}

    def opened(self) -> list[str]:
        """What was opened for writing, apart from devices, or asked from the network."""
        lines = (self.root / "log").read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith(("/dev/", "/proc/"))]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """An empty folder of a short name: a socket's path, below it, has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ga") as folder:
        yield Path(folder).resolve()


@pytest.fixture(scope="module")
def place(root: Path) -> Place:
    """After two iterations with scoring, and the demo on one picture, on a data set of two."""
    place = Place(root)
    data = place.root / "data"
    for i in range(2):
        picture = np.full((64, 96, 3), 40 * (i + 1), np.uint8)
        picture[10:40, 20:60] = 200
        cv2.imwrite(str(data / f"{i}.png"), picture)
    boxes = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [20, 10, 40, 30], "area": 1200,
         "iscrowd": 0}
        for i in range(2)
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(2)]
    kinds = [{"id": 1, "name": "box"}]
    content = {"info": {}, "images": images, "annotations": boxes, "categories": kinds}
    (data / "boxes.json").write_text(json.dumps(content))
    keys = [part for pair in KEYS.items() for part in pair]
    dataset = f"ga_written={data / 'boxes.json'}:{data}"
    config = ("--config-file", str(CONFIG))
    output = str(place.root / "output")
    place.run("train_net.py", *config, "--dataset", dataset, *keys, "OUTPUT_DIR", output)
    place.run(
        "demo.py", *config, "--input", str(data / "0.png"), "--output",
        str(place.root / "pictures"), "--opts", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS",
        f"{output}/model_final.pth",
    )  # fmt: skip
    return place


@pytest.mark.slow
def test_the_output_is_there(place: Place) -> None:
    assert {"model_final.pth", "metrics.json", "log.txt"} <= place.files("output")
    assert len(place.files("pictures")) == 1


@pytest.mark.slow
def test_no_other_folder_has_new_files(place: Place) -> None:
    assert place.files("work") == set()
    assert place.files("data") == {"0.png", "1.png", "boxes.json"}
    # Temporary files are gone at the end.
    assert place.files("tmp") == set()
    # matplotlib, which detectron2 imports, keeps a list of fonts; iopath has a folder for locks.
    known = (".cache/", ".config/matplotlib", ".torch/iopath_cache")
    assert [name for name in place.files("home") if not name.startswith(known)] == []


@pytest.mark.slow
def test_nothing_else_was_opened_for_writing(place: Place) -> None:
    opened = place.opened()
    assert f"{place.root / 'output' / 'metrics.json'}" in opened, "the hook noted nothing"
    # Whether the output's folder can be made is tried in the one above by a file without a name.
    within = (f"{place.root}{os.sep}", f"{place.root}\0")
    elsewhere = [line for line in opened if not f"{line}\0".startswith(within)]
    assert elsewhere == []
