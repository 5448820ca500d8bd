"""A faultless COCO dataset, which tests change."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (60, 90)
"""Height and width of the images."""


def make_contents() -> dict[str, Any]:
    """Two images, three objects of two categories whose ids are neither contiguous nor sorted."""
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
        | {"area": box[2] * box[3]}
        for i, (image, category, box) in enumerate(
            [(1, 7, [10, 10, 30, 20]), (1, 3, [50, 5, 10, 50]), (2, 7, [0, 0, 90, 60])]
        )
    ]
    height, width = SIZE
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": height, "width": width} for i in (1, 2)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "pole"}, {"id": 3, "name": "ship"}],
    }


def write_dataset(folder: Path, contents: Any, name: str = "set") -> str:
    """Write a JSON and images 1.png and 2.png; returns ``ANNOTATIONS.json:IMAGE_FOLDER``."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for i in (1, 2):
        pixels = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        assert cv2.imwrite(str(images / f"{i}.png"), pixels)
    (folder / f"{name}.json").write_text(json.dumps(contents))
    return f"{folder / name}.json:{images}"


def changed(key: str, index: int, **values: Any) -> dict[str, Any]:
    """The contents with other values in one entry; a value of None is removed."""
    contents = make_contents()
    entry = {**contents[key][index], **values}
    contents[key][index] = {k: v for k, v in entry.items() if v is not None}
    return contents


def added(key: str, index: int, **values: Any) -> dict[str, Any]:
    """The contents with a changed copy of an entry at the end."""
    contents = make_contents()
    contents[key].append({**copy.deepcopy(contents[key][index]), **values})
    return contents
