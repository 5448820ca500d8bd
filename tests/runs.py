"""Small runs: a drawn dataset, narrow networks, and arguments for a few iterations."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "configs"

KEYPOINTS = ["left_top", "right_top", "middle", "left_bottom", "right_bottom"]
GA_LOSSES = {"loss_anchor_loc", "loss_anchor_shape", "loss_rpn_cls", "loss_rpn_loc"}

# Sizes of networks and images, and schedules, as overrides of any configuration.
NARROW: dict[str, object] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": "()",
    "SEED": 1,
}


def as_overrides(keys: dict[str, object]) -> list[str]:
    """Keys, in which ``__`` may stand for a dot, and values in turn."""
    return [str(part) for k, v in keys.items() for part in (k.replace("__", "."), v)]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An argument of --dataset: six images of 96 x 64 pixels with rectangles of two classes.

    The rectangles' outlines are their masks, corners and centre their keypoints.
    """
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
            points = [(x, y), (x + w, y), (x + w // 2, y + h // 2), (x, y + h), (x + w, y + h)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": kind + 1,
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
    parts = {"keypoints": KEYPOINTS, "skeleton": [[1, 2], [4, 5]]}
    contents = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": n, **parts} for i, n in ((1, "red"), (2, "green"))],
    }
    (folder / "tiny.json").write_text(json.dumps(contents))
    return f"ga_tiny={folder / 'tiny.json'}:{folder}"


@pytest.fixture
def arguments(tiny_dataset: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the arguments of a tool, for two iterations of a narrow network on tiny_dataset."""

    def arguments(config: str, *options: object, **overrides: object) -> list[str]:
        keys: dict[str, object] = {
            **NARROW,
            "MODEL.ROI_HEADS.NUM_CLASSES": 2,
            "MODEL.RETINANET.NUM_CLASSES": 2,
            "DATASETS.TRAIN": "('ga_tiny',)",
            "DATASETS.TEST": "('ga_tiny',)",
            "OUTPUT_DIR": tmp_path / "output",
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        file = str(CONFIGS / f"{config}.yaml")
        return [
            *("--config-file", file, "--dataset", tiny_dataset),
            *map(str, options),
            *as_overrides(keys),
        ]

    return arguments


@pytest.fixture
def config(arguments: Callable) -> Callable[..., CfgNode]:
    """Reads the configuration of ``arguments``."""

    def config(name: str, **overrides: object) -> CfgNode:
        _, file, _, dataset, *keys = arguments(name, **overrides)
        return load_config(file, keys, [dataset])

    return config


@pytest.fixture
def save_weights(config: Callable, tmp_path: Path) -> Callable[..., str]:
    """Saves the random weights of a configuration's model, and returns their path."""

    def save(name: str, change: Callable[[nn.Module], object] = id, **overrides: object) -> str:
        torch.manual_seed(0)
        model = build_model(config(name, **overrides))
        with torch.no_grad():
            change(model)
        path = tmp_path / f"{name.replace('/', '_')}.pth"
        torch.save({"model": model.state_dict(), "__author__": "test"}, path)
        return str(path)

    return save


def metrics(folder: Path) -> dict[str, float]:
    """Latest value of every metric of a run."""
    latest: dict[str, float] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        latest.update(json.loads(line))
    return latest


def losses(folder: Path) -> dict[str, float]:
    """The last losses by name, without their sum."""
    return {k: v for k, v in metrics(folder).items() if k.startswith("loss_")}


def results(folder: Path) -> list[dict]:
    """The detections of the last evaluation of a run."""
    return json.loads((folder / "inference" / "coco_instances_results.json").read_text())
