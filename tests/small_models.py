"""Untrained models that are quick, and two images to run them on."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "small" / "ga_faster_R_18.yaml"


@pytest.fixture(scope="session")
def two_pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """NAME=JSON:FOLDER of two images, the second without an object."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images, annotations = [], []
    for i, (height, width) in enumerate(((60, 90), (80, 64))):
        name = f"picture{i}.png"
        cv2.imwrite(str(folder / name), random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        images.append({"id": i, "file_name": name, "height": height, "width": width})
    for i, box in enumerate(([10, 10, 40, 20], [50, 5, 20, 50])):
        area = box[2] * box[3]
        annotations.append(
            {"id": i + 1, "image_id": 0, "category_id": i + 1, "bbox": box, "area": area}
            | {"iscrowd": 0}
        )
    categories = [{"id": i + 1, "name": f"kind{i}"} for i in range(5)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return f"two_pictures={folder}/annotations.json:{folder}"


QUICK = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 30, "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 160),
    *("DATASETS.TEST", '("two_pictures",)'),
)


def write_model(folder: Path, name: str, *overrides: object) -> Path:
    """A configuration file and random weights of its model, beside each other."""
    cfg = load_config(str(CONFIG), [*QUICK, *overrides])
    torch.manual_seed(0)
    cfg.MODEL.WEIGHTS = str(folder / f"{name}.pth")
    cfg.OUTPUT_DIR = str(folder / name)
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    path = folder / f"{name}.yaml"
    path.write_text(cfg.dump())
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def detector(model_folder: Path) -> str:
    """Configuration file of a small, untrained GA-Faster R-CNN."""
    return str(write_model(model_folder, "detector"))


@pytest.fixture(scope="session")
def proposer(model_folder: Path) -> str:
    """... of a GA-RPN."""
    return str(write_model(model_folder, "proposer", "MODEL.META_ARCHITECTURE", "ProposalNetwork"))


@pytest.fixture(scope="session")
def plain_detector(model_folder: Path) -> str:
    """... of a Faster R-CNN without guided anchors."""
    return str(write_model(model_folder, "plain", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"))
