"""Boxes of a dataset in pixels of the network's input."""

from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances

__all__ = ["annotations_by_image", "ground_truth_of_input"]


def annotations_by_image(dataset_name: str) -> dict[Any, list[dict[str, Any]]]:
    """The annotations of a registered dataset by image id."""
    records = DatasetCatalog.get(dataset_name)
    return {record["image_id"]: record.get("annotations", []) for record in records}


def ground_truth_of_input(image: dict[str, Any], annotations: list[dict[str, Any]]) -> Instances:
    """``gt_boxes`` of an image without crowds, in pixels of the network's input.

    Args:
        image: dictionary with ``image`` (C, H, W), and ``height`` and ``width`` of the original.
        annotations: of the original.
    """
    size = (image["image"].shape[-2], image["image"].shape[-1])
    rows = [
        BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in annotations
        if not a.get("iscrowd", 0)
    ]
    boxes = Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))
    boxes.scale(size[1] / image["width"], size[0] / image["height"])
    boxes.clip(size)
    return Instances(size, gt_boxes=boxes[boxes.nonempty()])
