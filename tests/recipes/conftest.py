"""A small dataset with masks and keypoints, and arguments for short runs."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.recipes.runs import CONFIGS, NARROW

KEYPOINTS = ["left_top", "right_top", "middle", "left_bottom", "right_bottom"]


@pytest.fixture(scope="session")
def shapes_with_parts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four images of 96 x 64 pixels with rectangles, their outlines, corners and centres."""
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        image = rng.integers(0, 80, (64, 96, 3), dtype=np.uint8)
        for _ in range(1 + i % 2):
            w, h = rng.integers(16, 40, 2).tolist()
            x, y = int(rng.integers(0, 96 - w)), int(rng.integers(0, 64 - h))
            image[y : y + h, x : x + w] = (40, 200, 90)
            points = [(x, y), (x + w, y), (x + w // 2, y + h // 2), (x, y + h), (x + w, y + h)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "keypoints": [v for px, py in points for v in (px, py, 2)],
                    "num_keypoints": len(points),
                }
            )
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 96})
        cv2.imwrite(str(folder / f"{i}.png"), image)
    category = {"id": 1, "name": "card", "keypoints": KEYPOINTS, "skeleton": [[1, 2], [4, 5]]}
    contents = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
    (folder / "parts.json").write_text(json.dumps(contents))
    return f"ga_parts={folder / 'parts.json'}:{folder}"


@pytest.fixture
def arguments(shapes_with_parts: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the arguments of a recipe's run of two iterations with a narrow network."""

    def arguments(config: str, *options: str, **overrides: object) -> list[str]:
        keys: dict[str, object] = {
            **NARROW,
            "MODEL.ROI_HEADS.NUM_CLASSES": 1,
            "DATASETS.TRAIN": "('ga_parts',)",
            "DATASETS.TEST": "('ga_parts',)",
            "OUTPUT_DIR": str(tmp_path / "output"),
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        flat = [str(part) for pair in keys.items() for part in pair]
        file = str(CONFIGS / f"{config}.yaml")
        return ["--config-file", file, "--dataset", shapes_with_parts, *options, *flat]

    return arguments
