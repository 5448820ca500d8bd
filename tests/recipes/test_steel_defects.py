"""The case study of docs/steel_defects.md: its conversion of Pascal VOC, and its configs."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from tests.docs.pages import DOCS, code_blocks
from tests.runs import CONFIGS, as_overrides, losses, metrics
from tests.scripts import load_script

STEEL = sorted(p for p in (CONFIGS / "steel_defects").glob("*.yaml") if "Base" not in p.name)
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SEED": 1,
}


def write_voc(folder: Path, name: str, kind: str, boxes: list[tuple]) -> None:
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for side in ("width", "height", "depth"):
        ElementTree.SubElement(size, side).text = "1" if side == "depth" else "200"
    for box in boxes:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = kind
        corners = ElementTree.SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ElementTree.SubElement(corners, key).text = str(value)
    ElementTree.ElementTree(root).write(folder / f"{name}.xml")


@pytest.fixture(scope="module")
def steel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NEU-DET in its original form, converted: twelve grey images of each class."""
    tmp_path = tmp_path_factory.mktemp("steel")
    rng = np.random.default_rng(0)
    for name in ("ANNOTATIONS", "IMAGES"):
        (tmp_path / "NEU-DET" / name).mkdir(parents=True)
    (page,) = code_blocks(DOCS / "steel_defects.md", "python")
    names: dict = {}
    exec(page.split("parts =")[0], names)
    for kind in names["CLASSES"]:
        for number in range(1, 13):
            name = f"{kind}_{number}"
            boxes = [(2, 10 * i, 20 + number, 10 * i + 8) for i in range(number % 4)]
            write_voc(tmp_path / "NEU-DET" / "ANNOTATIONS", name, kind, boxes)
            image = rng.integers(0, 255, (200, 200), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "NEU-DET" / "IMAGES" / f"{name}.jpg"), image)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(page, names)
    return tmp_path / "NEU-DET"


def test_conversion_from_voc(steel: Path) -> None:
    parts = {p: json.loads((steel / f"{p}.json").read_text()) for p in ("train", "val", "test")}
    files = {p: {i["file_name"] for i in contents["images"]} for p, contents in parts.items()}
    assert {p: len(f) for p, f in files.items()} == {"train": 60, "val": 12, "test": 0}
    assert not files["train"] & files["val"]
    for contents in parts.values():
        kinds = {c["id"]: c["name"] for c in contents["categories"]}
        for image in contents["images"]:
            kind, number = Path(image["file_name"]).stem.rsplit("_", 1)
            found = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
            assert {kinds[a["category_id"]] for a in found} <= {kind}
            width = 18 + int(number)
            assert [a["bbox"] for a in found] == [
                [2, 10 * i, width, 8] for i in range(int(number) % 4)
            ]


@pytest.mark.parametrize("config", STEEL, ids=lambda p: p.stem)
def test_training(steel: Path, config: Path, tmp_path: Path) -> None:
    datasets = [
        f"--dataset=steel_{p}={steel / p}.json:{steel / 'IMAGES'}" for p in ("train", "val")
    ]
    keys = as_overrides({**SMALL, "OUTPUT_DIR": tmp_path})
    load_script("train_net").main(["--config-file", str(config), *datasets, *keys])
    found = losses(tmp_path)
    assert all(math.isfinite(v) for v in found.values())
    assert ("loss_anchor_shape" in found) == config.stem.startswith("ga_")
    assert {"proposal_recall/AR@100", "bbox/AP"} & set(metrics(tmp_path))
