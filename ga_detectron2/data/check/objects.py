"""The objects of a dataset at the network's input size, and the settings they are compared with."""

import copy
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.register import DatasetArgument, check_files, parse_dataset_argument
from ga_detectron2.errors import ConfigError, DataError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, input_levels

__all__ = ["InputSize", "Objects", "find_dataset", "settings_of", "take_objects", "with_changes"]


def find_dataset(argument: str) -> DatasetArgument:
    """Name, JSON and image folder of a dataset.

    Args:
        argument: the name of a registered dataset, ``ANNOTATIONS.json:IMAGE_FOLDER``, or
            ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        DataError: it has no JSON in COCO's format, or one of its files is missing.
    """
    if argument not in DatasetCatalog and ":" in argument:
        if "=" not in argument.partition(":")[0]:
            json_file = argument.rpartition(":")[0]
            argument = f"{os.path.splitext(os.path.basename(json_file))[0]}={argument}"
        dataset = parse_dataset_argument(argument)
    else:
        metadata = MetadataCatalog.get(argument) if argument in MetadataCatalog else {}
        files = metadata.get("source_file", metadata.get("json_file")), metadata.get("image_root")
        if None in files:
            raise DataError(f"dataset '{argument}' is not from a COCO JSON: it cannot be checked")
        dataset = DatasetArgument(argument, *map(PathManager.get_local_path, files))
    check_files(dataset)
    return dataset


class InputSize(NamedTuple):
    """Shorter side of resized images in pixels, unless the longer one would exceed ``longest``."""

    shorter: int
    longest: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "InputSize":
        """The input size of training; of several the middle one."""
        sizes = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
        is_range = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
        middle = (sizes[0] + sizes[-1]) // 2 if is_range else sizes[len(sizes) // 2]
        return cls(middle, cfg.INPUT.MAX_SIZE_TRAIN)

    def resize(self, height: int, width: int) -> tuple[int, int]:
        """Resized (height, width), rounded as in detectron2."""
        if self.shorter == 0:  # detectron2's sign for leaving images as they are
            return height, width
        return ResizeShortestEdge.get_output_shape(height, width, self.shorter, self.longest)

    def scaled(self, factor: float) -> "InputSize":
        """Both limits times ``factor``, the shorter one rounded to a multiple of 32."""
        shorter = max(32, round(self.shorter * factor / 32) * 32)
        return InputSize(shorter, max(shorter, round(self.longest * shorter / self.shorter)))


def settings_of(cfg: CfgNode) -> GuidedAnchoring:
    """The settings of a model's guided anchors; the model is not built.

    Raises:
        ValueError: the model has no guided anchors, or a key is wrong.
    """
    if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet":
        key, names = "MODEL.RETINANET.IN_FEATURES", cfg.MODEL.RETINANET.IN_FEATURES
    elif cfg.MODEL.PROPOSAL_GENERATOR.NAME == "GuidedAnchorRPN":
        key, names = "MODEL.RPN.IN_FEATURES", cfg.MODEL.RPN.IN_FEATURES
    else:
        raise ConfigError(
            "the model has no guided anchors: use a configuration with "
            "MODEL.PROPOSAL_GENERATOR.NAME GuidedAnchorRPN or MODEL.META_ARCHITECTURE GARetinaNet, "
            "such as configs/ga_rpn_R_50.yaml"
        )
    with torch.device("meta"):  # Only its strides are needed.
        levels = build_backbone(cfg).output_shape()
    shapes = input_levels(key, names, levels)
    return GuidedAnchoring.from_config(cfg, [shape.stride for shape in shapes])


def with_changes(settings: GuidedAnchoring, **changes: Any) -> GuidedAnchoring:
    """A copy of ``settings`` with other attributes."""
    changed = copy.copy(settings)
    vars(changed).update(changes)
    return changed


class Objects(NamedTuple):
    """G boxes that training uses, in pixels of the network's input.

    Attributes:
        boxes: (G, 4) float32, x1, y1, x2, y2, clipped to the image.
        image_sizes: (G, 2) float32, width and height of the box's image.
        image_of: (G,) int64 into the dataset's images.
        annotation_of: (G,) int64 into its annotations.
    """

    boxes: Tensor
    image_sizes: Tensor
    image_of: Tensor
    annotation_of: Tensor

    @property
    def sizes(self) -> Tensor:
        """(G, 2) width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]


def take_objects(data: CocoFile, input_size: InputSize) -> Objects:
    """The boxes that detectron2's mapper keeps: clipped, with an area, and no crowds."""
    resized = np.array(
        [input_size.resize(int(h), int(w))[::-1] for w, h in data.image_sizes], dtype=np.float64
    )
    chosen = np.flatnonzero((data.boxes[:, 2:] > 0).all(axis=1) & ~data.is_crowd)
    image_of = data.image_of[chosen]
    limits = np.tile(resized[image_of], 2)
    boxes = data.boxes[chosen].astype(np.float32)  # as in BoxMode, to the last bit
    boxes[:, 2:] += boxes[:, :2]
    boxes = (boxes * np.tile(resized / data.image_sizes, 2)[image_of]).clip(0, limits)
    # Same as detectron2's filter_empty_instances.
    left = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(axis=1)
    return Objects(
        torch.from_numpy(boxes[left]).float(),
        torch.from_numpy(limits[left, :2]).float(),
        torch.from_numpy(image_of[left]),
        torch.from_numpy(chosen[left]),
    )
