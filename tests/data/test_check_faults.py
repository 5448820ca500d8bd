"""Faults of a dataset are found in a file that has them, and only there."""

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ga_detectron2.data.check import (
    Findings,
    check_annotations,
    check_image_files,
    format_findings,
    read_coco_file,
)
from ga_detectron2.data.check.objects import find_dataset
from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import ERROR, NOTE, WARNING
from ga_detectron2.errors import DataError

from .coco_files import added, changed, make_contents, write_dataset


def inspect(folder: Path, contents: Any, how: str = "none") -> tuple[CocoFile, Findings]:
    findings = Findings()
    argument = write_dataset(folder, contents)
    data = read_coco_file(*find_dataset(argument), findings)
    check_annotations(data, findings)
    check_image_files(data, findings, how)
    return data, findings


def counts(findings: Findings) -> dict[str, int]:
    return {x.kind: x.count for x in findings.in_order()}


def box(*values: float) -> dict[str, Any]:
    """The contents with another box in the first annotation."""
    return changed("annotations", 0, bbox=list(values), area=max(values[2] * values[3], 1))


FAULTS: list[tuple[dict[str, Any], dict[str, int]]] = [
    (changed("images", 1, width=0), {"image_malformed": 1, "annotation_without_image": 1}),
    (changed("annotations", 1, image_id=None), {"annotation_malformed": 1, "category_unused": 1}),
    (changed("categories", 1, name=None), {"category_malformed": 1, "category_undeclared": 1}),
    (added("images", 1, file_name="3.png"), {"image_id_twice": 1, "image_empty": 1}),
    (added("images", 0, id=3), {"file_twice": 1, "image_empty": 1}),
    (added("annotations", 0, bbox=[1, 1, 9, 9], area=81), {"annotation_id_twice": 1}),
    (added("categories", 0, name="car"), {"category_id_twice": 1}),
    (added("categories", 0, id=4), {"category_name_twice": 1, "category_unused": 1}),
    (box(math.nan, 2, 3, 4), {"box_malformed": 1}),
    (box(40, 10, -30, 20), {"box_negative": 1}),
    (box(40, 10, 30, 0), {"box_empty": 1}),
    (box(40, 10, 30, 0.5), {"box_degenerate": 1}),
    (box(90, 10, 30, 20), {"box_outside": 1}),
    (box(10, -30, 30, 20), {"box_outside": 1}),
    (box(70, 10, 22, 20), {"box_reaches_out": 1}),
    (box(-1.5, 10, 22, 20), {"box_reaches_out": 1}),
    (box(70, 10, 20.9, 20), {}),  # within the tolerance
    (added("annotations", 0, id=9), {"box_twice": 1}),
    (changed("annotations", 0, area=None), {"field_filled": 1}),
    (changed("annotations", 0, area=-1), {"area_wrong": 1}),
    (changed("annotations", 0, area=1000), {"area_wrong": 1}),
    (changed("annotations", 0, area=100), {}),  # of a mask, less than its box
    (changed("annotations", 0, ignore=1), {"ignore_flag": 1, "crowd": 1}),
    (changed("annotations", 1, ignore="no"), {"annotation_malformed": 1, "category_unused": 1}),
    (changed("annotations", 0, id=0), {"annotation_id_unusable": 1}),
    (changed("annotations", 0, segmentation=[[1, 1, 5, 5]]), {"polygon_degenerate": 1}),
    (changed("annotations", 0, segmentation=[[1, 1, 5, 5], [1, 1, 5, 5, 1, 5]]), {}),
    (changed("annotations", 2, iscrowd=1), {"crowd": 1, "image_empty": 1}),
]


@pytest.mark.parametrize(("contents", "expected"), FAULTS)
def test_fault_is_found(tmp_path: Path, contents: dict[str, Any], expected: dict) -> None:
    _, findings = inspect(tmp_path, contents)
    assert counts(findings) == expected


def test_other_conventions_of_boxes(tmp_path: Path) -> None:
    contents = make_contents()
    corners = [[10, 10, 40, 30], [50, 5, 60, 55], [0, 0, 90, 60]]
    for annotation, values in zip(contents["annotations"], corners, strict=True):
        annotation["bbox"] = values
    assert counts(inspect(tmp_path, contents)[1])["box_corners"] == 1
    for annotation, (x1, y1, x2, y2) in zip(contents["annotations"], corners, strict=True):
        annotation["bbox"] = [x1 / 90, y1 / 60, (x2 - x1) / 90, (y2 - y1) / 60]
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    found = counts(inspect(tmp_path, contents)[1])
    assert found["box_normalized"] == 3
    assert "box_corners" not in found


@pytest.mark.parametrize("how", ["full", "header"])
def test_image_files(tmp_path: Path, how: str) -> None:
    contents = make_contents()
    for i, name in enumerate(["absent.png", "sub/1.png", "text.png", "other.png"], 3):
        contents["images"].append({"id": i, "file_name": name, "height": 60, "width": 90})
    # A camera held upright: rows are stored as columns.
    contents["images"].append({"id": 9, "file_name": "turned.jpg", "height": 90, "width": 60})
    contents["images"].append({"id": 10, "file_name": "swapped.jpg", "height": 60, "width": 90})
    argument = write_dataset(tmp_path, contents)
    images = tmp_path / "images"
    (images / "text.png").write_text("no picture")
    cv2.imwrite(str(images / "other.png"), np.zeros((60, 91, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("turned.jpg", "swapped.jpg"):
        Image.new("RGB", (90, 60)).save(images / name, exif=exif)
    findings = Findings()
    seen = []
    check_image_files(
        read_coco_file(*find_dataset(argument), findings),
        findings,
        how,
        progress=lambda steps: (seen.append(x) or x for x in steps),
    )
    assert len(seen) == 8
    assert counts(findings) == {"image_missing": 2, "image_unreadable": 1, "image_size_differs": 2}
    assert findings["image_missing"].examples == ["absent.png", "sub/1.png"]
    assert findings["image_unreadable"].examples[0].startswith("text.png: ")
    differs = findings["image_size_differs"].examples
    assert differs[0] == "other.png: 91x60, in the JSON 90x60"
    assert differs[1].startswith("swapped.jpg: 60x90, in the JSON 90x60 (swapped")


def test_truncated_image_is_found_by_decoding_it(tmp_path: Path) -> None:
    data, findings = inspect(tmp_path, changed("images", 1, file_name="2.jpg"))
    path = tmp_path / "images" / "2.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    check_image_files(data, findings, "full")
    assert counts(findings) == {}
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    check_image_files(data, findings, "header")
    assert counts(findings) == {}
    check_image_files(data, findings, "full")
    assert counts(findings) == {"image_unreadable": 1}


def test_text_of_findings(tmp_path: Path) -> None:
    contents = changed("annotations", 0, bbox=[90, 10, 30, 20])
    contents["annotations"][2]["iscrowd"] = 1
    _, findings = inspect(tmp_path, contents)
    assert (findings.count(ERROR), findings.count(WARNING), findings.count(NOTE)) == (1, 0, 2)
    findings.add("box_twice", (f"case {i}" for i in range(1000)))
    assert len(findings["box_twice"].examples) <= 20
    lines = format_findings(findings).splitlines()
    assert lines[1].strip() == "annotation 1 of 1.png, bbox [90, 10, 30, 20]"
    assert "and 997 more" in lines[6]
    assert lines[-1] == "1 error, 1000 warnings."


def test_names_and_missing_files(tmp_path: Path) -> None:
    argument = write_dataset(tmp_path, make_contents())
    assert find_dataset(argument)[0] == "set"
    assert find_dataset(f"mine={argument}")[0] == "mine"
    name, json_file, folder = find_dataset("ga_shapes_val")
    assert name == "ga_shapes_val"
    assert len(json.loads(Path(json_file).read_text())["images"]) == 200
    assert (Path(folder) / "000001.png").is_file()
    with pytest.raises(DataError, match="'nothing' is not from a COCO JSON"):
        find_dataset("nothing")
    with pytest.raises(DataError, match=r"there is no annotation file .*no\.json"):
        find_dataset(f"{tmp_path}/no.json:{tmp_path}")
    with pytest.raises(DataError, match=r"there is no image folder .*nowhere"):
        find_dataset(f"{tmp_path}/set.json:{tmp_path}/nowhere")
