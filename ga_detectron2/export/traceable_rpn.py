"""Inference of GA-RPN that can be traced, with dynamic sizes and numbers of cells."""

import math

from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ga_detectron2.modeling.feature_adaption import FeatureRows
from ga_detectron2.modeling.rpn import GuidedAnchorRPN

from .cells import Level, levels_by_image, of_image
from .traceable_adaption import adapt_cells


class TraceableGuidedAnchorRPN(nn.Module):
    """Replacement of a :class:`GuidedAnchorRPN` in a trace, with the same weights and results.

    It cannot train.
    """

    def __init__(self, rpn: GuidedAnchorRPN):
        super().__init__()
        self.rpn = rpn

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Same as :meth:`GuidedAnchorRPN.forward` in inference."""
        rpn = self.rpn
        hidden, loc_logits, shape_deltas = rpn.rpn_head([features[f] for f in rpn.in_features])
        levels = levels_by_image(rpn.guided_anchoring, hidden, loc_logits, shape_deltas)
        proposals = [
            self._propose([of_image(x, n) for x in hidden], levels[n], size)
            for n, size in enumerate(images.image_sizes)
        ]
        return proposals, {}

    def _propose(
        self, hidden: list[FeatureRows], levels: list[Level], image_size: tuple[int, int]
    ) -> Instances:
        boxes, logits = [], []
        for features, level in zip(hidden, levels, strict=True):
            level_boxes, level_logits = self._boxes_of_level(features, level)
            # An infinite box, which is dropped again. Without it, the trace would lack that step,
            # and ONNX could not reshape a level without boxes (a 0 in a shape means there that the
            # axis keeps its size).
            boxes.append(F.pad(level_boxes, (0, 0, 0, 1))[None])
            logits.append(F.pad(level_logits, (0, 1), value=-math.inf)[None])
        rpn = self.rpn
        (proposals,) = find_top_rpn_proposals(
            boxes,
            logits,
            [image_size],
            rpn.nms_thresh,
            rpn.pre_nms_topk[False],
            rpn.post_nms_topk[False],
            rpn.min_box_size,
            training=False,
        )
        return proposals

    def _boxes_of_level(self, features: FeatureRows, level: Level) -> tuple[Tensor, Tensor]:
        """(K, 4) boxes and (K,) objectness logits of the cells that pass the filter."""
        rpn = self.rpn
        cells = level.kept.nonzero().squeeze(1)
        adaption = rpn.rpn_head.feature_adaption
        adapted = adapt_cells(adaption, features, cells, level.shape_deltas[cells])
        logits, deltas = rpn.rpn_head.predict_boxes(adapted).split([1, 4], dim=1)
        anchors = level.guided_anchors(rpn.guided_anchoring, cells)
        return rpn.box2box_transform.apply_deltas(deltas, anchors), logits.squeeze(1)
