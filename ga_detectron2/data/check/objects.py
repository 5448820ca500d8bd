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
from ga_detectron2.data.register import parse_dataset_argument
from ga_detectron2.errors import ConfigError, DataError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, input_levels

__all__ = [
    "InputSize",
    "Objects",
    "find_dataset",
    "octaves_of",
    "settings_of",
    "squares_of",
    "take_objects",
    "with_changes",
]


def find_dataset(argument: str) -> tuple[str, str, str]:
    """Name, JSON and image folder of a dataset.

    Args:
        argument: the name of a registered dataset, ``ANNOTATIONS.json:IMAGE_FOLDER``, or
            ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        DataError: there is no such dataset, or one of its files is missing.
    """
    if argument in DatasetCatalog:
        metadata = MetadataCatalog.get(argument)
        json_file = metadata.get("source_file", metadata.get("json_file"))
        files = json_file, metadata.get("image_root")
        if None in files:
            raise DataError(f"dataset '{argument}' is not from a COCO JSON: it cannot be checked")
        name, hint = argument, "set DETECTRON2_DATASETS to the folder of detectron2's datasets"
        json_file, image_root = (PathManager.get_local_path(path) for path in files)
    elif ":" not in argument:
        raise DataError(
            f"there is no dataset '{argument}': give the name of a registered one, such as "
            "ga_shapes_train, or ANNOTATIONS.json:IMAGE_FOLDER"
        )
    else:
        has_name = "=" in argument.partition(":")[0]
        name, json_file, image_root = parse_dataset_argument(
            argument if has_name else f"dataset={argument}"
        )
        if not has_name:
            name = os.path.splitext(os.path.basename(json_file))[0]
        hint = "it should be ANNOTATIONS.json:IMAGE_FOLDER"
    for kind, path, exists in (
        ("file", json_file, os.path.isfile(json_file)),
        ("folder", image_root, os.path.isdir(image_root)),
    ):
        if not exists:
            raise DataError(f"dataset '{name}': there is no {kind} {path}; {hint}")
    return name, json_file, image_root


class InputSize(NamedTuple):
    """Shorter side of resized images in pixels, unless the longer one would exceed ``longest``."""

    shorter: int
    longest: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "InputSize":
        """The input size of training; of several the middle one."""
        sizes = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
        if not sizes or cfg.INPUT.MAX_SIZE_TRAIN < 1:
            raise ConfigError(
                f"INPUT.MIN_SIZE_TRAIN {cfg.INPUT.MIN_SIZE_TRAIN} and MAX_SIZE_TRAIN "
                f"{cfg.INPUT.MAX_SIZE_TRAIN} must be positive"
            )
        if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
            return cls((sizes[0] + sizes[-1]) // 2, cfg.INPUT.MAX_SIZE_TRAIN)
        return cls(sizes[len(sizes) // 2], cfg.INPUT.MAX_SIZE_TRAIN)

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


def squares_of(settings: GuidedAnchoring) -> list[float]:
    """Sides of the squares by level, in pixels."""
    return [settings.base_scale * stride for stride in settings.strides]


def octaves_of(boxes: Tensor, settings: GuidedAnchoring) -> Tensor:
    """Logarithm to base 2 of the ratio of a box's size to the first square's side: (G,).

    Within [-0.5, L - 0.5) the box is within half an octave of the squares of some level.
    """
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    return (size / squares_of(settings)[0]).log2()


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
    boxes = data.boxes[chosen]
    boxes[:, 2:] += boxes[:, :2]
    boxes *= np.tile(resized / data.image_sizes, 2)[image_of]
    boxes = boxes.clip(0, limits)
    # Same as detectron2's filter_empty_instances.
    left = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(axis=1)
    return Objects(
        torch.from_numpy(boxes[left]).float(),
        torch.from_numpy(limits[left, :2]).float(),
        torch.from_numpy(image_of[left]),
        torch.from_numpy(chosen[left]),
    )
