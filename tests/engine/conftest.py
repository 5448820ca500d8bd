"""A small dataset in COCO's format, and arguments for short runs."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six images of 96 x 64 pixels with rectangles of two classes, as an argument of --dataset."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        image = rng.integers(0, 80, (64, 96, 3), dtype=np.uint8)
        for _ in range(1 + i % 3):
            w, h = rng.integers(12, 40, 2).tolist()
            x, y = int(rng.integers(0, 96 - w)), int(rng.integers(0, 64 - h))
            kind = len(annotations) % 2
            image[y : y + h, x : x + w] = (40, 200, 90) if kind else (220, 60, 60)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": kind + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 96})
        cv2.imwrite(str(folder / f"{i}.png"), image)
    contents = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
    }
    (folder / "tiny.json").write_text(json.dumps(contents))
    return f"ga_tiny={folder / 'tiny.json'}:{folder}"


@pytest.fixture
def arguments(tiny_dataset: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the arguments of tools/train_net.py for a few iterations with a ResNet-18."""

    def arguments(config: str, *options: str, **overrides: object) -> list[str]:
        keys: dict[str, object] = {
            "MODEL.WEIGHTS": "",
            "MODEL.DEVICE": "cpu",
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
            "MODEL.ROI_HEADS.NUM_CLASSES": 2,
            "MODEL.RETINANET.NUM_CLASSES": 2,
            "DATASETS.TRAIN": "('ga_tiny',)",
            "DATASETS.TEST": "('ga_tiny',)",
            "DATALOADER.NUM_WORKERS": 0,
            "INPUT.MIN_SIZE_TRAIN": "(64,)",
            "INPUT.MIN_SIZE_TEST": 64,
            "SOLVER.IMS_PER_BATCH": 2,
            "SOLVER.BASE_LR": 0.001,
            "SOLVER.MAX_ITER": 2,
            "SOLVER.STEPS": "()",
            "SEED": 1,
            "OUTPUT_DIR": str(tmp_path / "output"),
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        flat = [str(part) for pair in keys.items() for part in pair]
        file = str(CONFIGS / f"{config}.yaml")
        return ["--config-file", file, "--dataset", tiny_dataset, *options, *flat]

    return arguments
