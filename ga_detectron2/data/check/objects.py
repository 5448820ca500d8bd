"""The objects of a data set as a network sees them in training, and the levels that they go to."""

from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_backbone
from torch import Tensor

from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, input_levels
from ga_detectron2.modeling.targets import box_levels

from .coco_file import CocoFile

__all__ = ["Geometry", "InputSize", "Objects", "settings_of", "take_objects"]


class InputSize(NamedTuple):
    """To which images are resized, in pixels: the shorter side, unless the longer exceeds most."""

    shorter: int
    longest: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "InputSize":
        """Of training; of several sizes the middle one."""
        sizes = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
        if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
            shorter = (sizes[0] + sizes[-1]) // 2
        else:
            shorter = sizes[len(sizes) // 2]
        return cls(shorter, cfg.INPUT.MAX_SIZE_TRAIN)

    def resize(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) afterwards, as detectron2 rounds it."""
        if self.shorter == 0:  # detectron2's sign for leaving images as they are
            return height, width
        return ResizeShortestEdge.get_output_shape(height, width, self.shorter, self.longest)

    def scaled(self, factor: float) -> "InputSize":
        """Both limits times ``factor``, the shorter one rounded to a multiple of 32."""
        shorter = max(32, round(self.shorter * factor / 32) * 32)
        return InputSize(shorter, max(shorter, round(self.longest * shorter / self.shorter)))


class Geometry(NamedTuple):
    """What anchors of a model may look like; see ``GuidedAnchoring``, from which it comes.

    Attributes:
        strides: of the L levels in pixels, each twice the one before.
        base_scale: side of the squares in strides.
        scales_per_octave, aspect_ratios: of the approximate anchors.
        min_positive_iou: of a box with its best approximate anchor, from which on it gets cells
            that learn its shape.
        positive_iou: from which on any cell learns it.
    """

    strides: tuple[int, ...]
    base_scale: float
    scales_per_octave: int
    aspect_ratios: tuple[float, ...]
    min_positive_iou: float
    positive_iou: float

    @classmethod
    def of(cls, settings: GuidedAnchoring) -> "Geometry":
        rule = settings.shape_rule
        return cls(
            settings.strides,
            settings.base_scale,
            settings.scales_per_octave,
            settings.aspect_ratios,
            rule.min_positive_iou,
            rule.thresholds[rule.labels.index(1) - 1],
        )

    @property
    def squares(self) -> list[float]:
        """Sides of the squares by level, in pixels."""
        return [self.base_scale * stride for stride in self.strides]

    def levels_of(self, boxes: Tensor) -> Tensor:
        """The level that training gives each box (G, 4) to: (G,) int64."""
        return box_levels(boxes, len(self.strides), self.strides[0], self.base_scale)

    def octaves_of(self, boxes: Tensor) -> Tensor:
        """How many times a box (G, 4) doubles the first square's side: (G,).

        From -0.5 to L - 0.5 it is within half an octave of the squares of some level.
        """
        size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        return (size / self.squares[0]).log2()


def settings_of(cfg: CfgNode) -> GuidedAnchoring:
    """The settings of a model's guided anchors, without building the model.

    Raises:
        ValueError: the model has no guided anchors, or a key is wrong.
    """
    if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet":
        key, names = "MODEL.RETINANET.IN_FEATURES", cfg.MODEL.RETINANET.IN_FEATURES
    elif cfg.MODEL.PROPOSAL_GENERATOR.NAME == "GuidedAnchorRPN":
        key, names = "MODEL.RPN.IN_FEATURES", cfg.MODEL.RPN.IN_FEATURES
    else:
        raise ValueError(
            "the model has no guided anchors: use a configuration with "
            "MODEL.PROPOSAL_GENERATOR.NAME GuidedAnchorRPN or MODEL.META_ARCHITECTURE GARetinaNet, "
            "such as configs/ga_rpn_R_50.yaml"
        )
    with torch.device("meta"):  # Its levels are wanted, not its weights.
        levels = build_backbone(cfg).output_shape()
    shapes = input_levels(key, names, levels)
    return GuidedAnchoring.from_config(cfg, [shape.stride for shape in shapes])


class Objects(NamedTuple):
    """G boxes that training learns from, in pixels of the network's input.

    Attributes:
        boxes: (G, 4) float32, x1, y1, x2, y2, clipped to the image.
        image_sizes: (G, 2) float32, width and height of the box's image.
        image_of: (G,) int64 into the data set's images.
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
    """What detectron2's mapper keeps of a data set: no crowds, and clipped boxes with an area."""
    resized = np.array(
        [input_size.resize(int(h), int(w))[::-1] for w, h in data.image_sizes], dtype=np.float64
    )
    with np.errstate(invalid="ignore"):
        is_box = np.isfinite(data.boxes).all(axis=1) & (data.boxes[:, 2:] > 0).all(axis=1)
    chosen = np.flatnonzero(is_box & (data.image_of >= 0) & data.is_declared & ~data.is_crowd)
    image_of = data.image_of[chosen]
    limits = np.tile(resized[image_of], 2)
    boxes = data.boxes[chosen]
    boxes[:, 2:] += boxes[:, :2]
    boxes *= np.tile(resized / data.image_sizes, 2)[image_of]
    boxes = boxes.clip(0, limits)
    # As detectron2's filter_empty_instances.
    left = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(axis=1)
    return Objects(
        torch.from_numpy(boxes[left]).float(),
        torch.from_numpy(limits[left, :2]).float(),
        torch.from_numpy(image_of[left]),
        torch.from_numpy(chosen[left]),
    )
