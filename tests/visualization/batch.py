"""Guided anchors of a small batch, as a model would make them."""

import torch

from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors
from ga_detectron2.modeling.matching import MatchRule

INPUT_SIZE = (36, 50)
"""Of the second image, which is padded to the batch's 48x64."""
SIZES = ((6, 8), (3, 4))
STRIDES = (8, 16)
BASE_SCALE = 4.0


SETTINGS = GuidedAnchoring(
    strides=STRIDES, base_scale=BASE_SCALE, shape_rule=MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
)


def make_guided(loc_logits: torch.Tensor, shape_deltas: torch.Tensor) -> GuidedAnchors:
    return SETTINGS(SIZES, loc_logits, shape_deltas)
