"""GA-RetinaNet: the one-stage detector with guided anchors ("Guided Anchoring", section 4).

Naming as in ``anchors.py``; K is the number of classes, C the number of channels.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torch.nn import functional as F

from ga_detectron2.config import RETINANET_KEYS, guided_anchor_node, keys_with_rpn_defaults

from .feature_adaption import FeatureAdaption, FeatureRows, to_rows
from .guided_anchoring import (
    TRACEABLE,
    GuidedAnchoring,
    GuidedAnchors,
    init_branches,
    input_levels,
    log_per_image,
)
from .losses import BOX_LOSS_TYPES, box_regression_loss, mean_over_workers
from .matching import MatchRule, match_anchors
from .sparse_conv import NeighboringCells, conv3x3
from .targets import GroundTruth, pad_ground_truth

logger = logging.getLogger(__name__)

# The best anchor of a box is positive at any IoU, as in the published models and in detectron2's
# RetinaNet.
ANY_BEST_ANCHOR = 0.0


class HeadOutput(NamedTuple):
    """Outputs of the head for every cell.

    Attributes:
        cls_features, bbox_features: L levels of the two towers.
        loc_logits: (N, R).
        shape_deltas: (N, R, 2).
    """

    cls_features: list[FeatureRows]
    bbox_features: list[FeatureRows]
    loc_logits: Tensor
    shape_deltas: Tensor


class GARetinaNetHead(RetinaNetHead):
    """detectron2's RetinaNet head with location and shape branches and feature adaption.

    Location comes from the class tower, shape from the box tower. The last convolutions see
    features that were adapted to the guided anchors, and can be applied to some cells only.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        conv_dims: list[int],
        norm: str = "",
        prior_prob: float = 0.01,
        deform_groups: int = 4,
        adaption_init_std: float = 0.01,
    ):
        """
        Args:
            input_shape: shapes of the levels.
            num_classes: K.
            conv_dims: channels of the towers' convolutions.
            norm: normalisation in the towers.
            prior_prob: class and location probability at the start of training.
            deform_groups: groups of channels that share their offsets in feature adaption; 0 holds
                the offsets at zero.
            adaption_init_std: standard deviation of feature adaption's initial weights.
        """
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            num_anchors=1,
            conv_dims=conv_dims,
            norm=norm,
            prior_prob=prior_prob,
        )
        channels = conv_dims[-1]
        self.anchor_loc = nn.Conv2d(channels, 1, kernel_size=1)
        self.anchor_shape = nn.Conv2d(channels, 2, kernel_size=1)
        init_branches(self.anchor_loc, self.anchor_shape, prior_prob)
        self.feature_adaption_cls = FeatureAdaption(
            channels, channels, deform_groups, adaption_init_std
        )
        self.feature_adaption_bbox = FeatureAdaption(
            channels, channels, deform_groups, adaption_init_std
        )
        # In channels-last format, rows are views of the towers' outputs, otherwise copies. But on a
        # CPU, GroupNorm takes up to 100 times as long in it unless the channels of a group are a
        # multiple of 8.
        norms = (m for m in self.modules() if isinstance(m, nn.GroupNorm))
        if not any(m.num_channels // m.num_groups % 8 for m in norms):
            self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.RETINANET.NUM_CLASSES,
            "conv_dims": [input_shape[0].channels] * cfg.MODEL.RETINANET.NUM_CONVS,
            "norm": cfg.MODEL.RETINANET.NORM,
            "prior_prob": cfg.MODEL.RETINANET.PRIOR_PROB,
            "deform_groups": guided_anchor_node(cfg).DEFORM_GROUPS,
            "adaption_init_std": guided_anchor_node(cfg).ADAPTION_INIT_STD,
        }

    def forward(self, features: list[Tensor]) -> HeadOutput:
        """Towers, location and shape of L maps (N, C, Hi, Wi)."""
        cls_features = [to_rows(self.cls_subnet(x)) for x in features]
        bbox_features = [to_rows(self.bbox_subnet(x)) for x in features]
        loc = [_conv1x1(self.anchor_loc, x) for x in cls_features]
        shape = [_conv1x1(self.anchor_shape, x) for x in bbox_features]
        return HeadOutput(
            cls_features, bbox_features, torch.cat(loc, dim=1).squeeze(2), torch.cat(shape, dim=1)
        )

    def classify(self, features: FeatureRows, shape_deltas: Tensor) -> Tensor:
        """Class logits (N, Hi * Wi, K) of every cell of a level."""
        return self._everywhere(self.feature_adaption_cls, self.cls_score, features, shape_deltas)

    def regress(self, features: FeatureRows, shape_deltas: Tensor) -> Tensor:
        """Anchor deltas (N, Hi * Wi, 4) of every cell of a level."""
        return self._everywhere(self.feature_adaption_bbox, self.bbox_pred, features, shape_deltas)

    def classify_at(
        self, features: FeatureRows, shape_deltas: Tensor, cells: NeighboringCells
    ) -> Tensor:
        """Class logits (k, K) of some cells of a level."""
        return self._at_cells(
            self.feature_adaption_cls, self.cls_score, features, shape_deltas, cells
        )

    def regress_at(
        self, features: FeatureRows, shape_deltas: Tensor, cells: NeighboringCells
    ) -> Tensor:
        """Anchor deltas (k, 4) of some cells of a level."""
        return self._at_cells(
            self.feature_adaption_bbox, self.bbox_pred, features, shape_deltas, cells
        )

    @staticmethod
    def _everywhere(
        adaption: FeatureAdaption, conv: nn.Conv2d, features: FeatureRows, shape_deltas: Tensor
    ) -> Tensor:
        return to_rows(conv(adaption(features, shape_deltas).to_map())).rows.float()

    @staticmethod
    def _at_cells(
        adaption: FeatureAdaption,
        conv: nn.Conv2d,
        features: FeatureRows,
        shape_deltas: Tensor,
        cells: NeighboringCells,
    ) -> Tensor:
        adapted = adaption.at_cells(features, cells.known, shape_deltas.flatten(0, 1)[cells.known])
        shape = (features.rows.shape[0], features.height, features.width)
        return conv3x3(adapted, cells, conv, shape).float()


def _conv1x1(conv: nn.Conv2d, features: FeatureRows) -> Tensor:
    return F.linear(features.rows, conv.weight.flatten(1), conv.bias)


@META_ARCH_REGISTRY.register()
class GARetinaNet(DenseDetector):
    """RetinaNet with guided anchors."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: GARetinaNetHead,
        head_in_features: Sequence[str],
        guided_anchoring: GuidedAnchoring,
        box_rule: MatchRule,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.04,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        vis_period: int = 0,
        input_format: str = "BGR",
    ):
        """
        Args:
            backbone: backbone with the levels ``head_in_features``.
            head: the layers.
            head_in_features: names of the levels, finest first.
            guided_anchoring: settings, targets and losses of guided anchors.
            box_rule: positive and negative guided anchors.
            box2box_transform: from guided anchors to boxes.
            num_classes: K.
            focal_loss_alpha, focal_loss_gamma, smooth_l1_beta, box_reg_loss_type: parameters of the
                losses.
            test_score_thresh, test_topk_candidates, test_nms_thresh, max_detections_per_image:
                inference parameters; candidates are cells of a level.
            pixel_mean, pixel_std, vis_period, input_format: as in detectron2's RetinaNet.
        """
        if box_reg_loss_type not in BOX_LOSS_TYPES:
            raise ValueError(
                f"MODEL.RETINANET.BBOX_REG_LOSS_TYPE '{box_reg_loss_type}' must be one of "
                f"{', '.join(BOX_LOSS_TYPES)}"
            )
        super().__init__(
            backbone, head, list(head_in_features), pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.guided_anchoring = guided_anchoring
        self.box_rule = box_rule
        self.box2box_transform = box2box_transform
        self.num_classes = num_classes
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        of_rpn = keys_with_rpn_defaults(cfg)
        if of_rpn == RETINANET_KEYS:
            raise ValueError(
                "MODEL.GUIDED_ANCHOR has the defaults of GA-RPN, which do not suit GARetinaNet (no "
                "square would be smaller than 64 pixels): call "
                "ga_detectron2.use_guided_anchoring(cfg), or set OCTAVE_BASE_SCALE 4, "
                "SHAPE_REG_WEIGHTS [1.0, 1.0], IOU_THRESHOLDS [0.4, 0.5] and MIN_POSITIVE_IOU 0.4"
            )
        if of_rpn:
            logger.warning(
                "MODEL.GUIDED_ANCHOR has the defaults of GA-RPN for %s; "
                "ga_detectron2.use_guided_anchoring(cfg) sets the published ones of GA-RetinaNet",
                ", ".join(of_rpn),
            )
        backbone = build_backbone(cfg)
        retinanet = cfg.MODEL.RETINANET
        shapes = input_levels(
            "MODEL.RETINANET.IN_FEATURES", retinanet.IN_FEATURES, backbone.output_shape()
        )
        return {
            "backbone": backbone,
            "head": GARetinaNetHead(cfg, shapes),
            "head_in_features": retinanet.IN_FEATURES,
            "guided_anchoring": GuidedAnchoring.from_config(cfg, [s.stride for s in shapes]),
            "box_rule": MatchRule.from_config(cfg, "RETINANET", ANY_BEST_ANCHOR),
            "box2box_transform": Box2BoxTransform(weights=tuple(retinanet.BBOX_REG_WEIGHTS)),
            "num_classes": retinanet.NUM_CLASSES,
            "focal_loss_alpha": retinanet.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": retinanet.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": retinanet.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": retinanet.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": retinanet.SCORE_THRESH_TEST,
            "test_topk_candidates": retinanet.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": retinanet.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: HeadOutput,
        gt_instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses by name; see ``DenseDetector.forward``."""
        guided = self._guide(predictions, images.tensor.shape[-2:])
        ground_truth = pad_ground_truth(gt_instances)
        inside = self.guided_anchoring.cells_inside(guided, images.image_sizes)
        losses = self.guided_anchoring.losses(guided, inside, ground_truth)
        losses.update(self._detection_losses(predictions, guided, inside, ground_truth))
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            with torch.no_grad():
                results = self._detect(predictions, guided, images.image_sizes)
            image = (images[0] * self.pixel_std + self.pixel_mean).cpu()
            batched_input = {"image": image, "instances": gt_instances[0].to("cpu")}
            self.visualize_training([batched_input], results[:1])
        return losses

    def _guide(
        self, predictions: HeadOutput, image_size: Sequence[int] | None = None
    ) -> GuidedAnchors:
        sizes = [(x.height, x.width) for x in predictions.cls_features]
        return self.guided_anchoring(
            sizes, predictions.loc_logits, predictions.shape_deltas, image_size
        )

    def _detection_losses(
        self,
        predictions: HeadOutput,
        guided: GuidedAnchors,
        inside: Tensor,
        ground_truth: GroundTruth,
    ) -> dict[str, Tensor]:
        """``loss_cls`` of all cells inside their image and ``loss_box_reg`` of positive ones."""
        counts = guided.grid.cells_per_level
        with torch.no_grad():
            matches = match_anchors(guided.anchors, inside, ground_truth, self.box_rule)
            positive = matches.labels == 1
            num_positive = positive.sum(dim=1)
            normalizer = mean_over_workers(num_positive.clamp(min=1).sum().float())
            log_per_image({"num_pos_anchors": num_positive})
            target_boxes = ground_truth.take(matches.boxes)
            classes = ground_truth.take_classes(matches.boxes)
        deltas = guided.shape_deltas.split(counts, dim=1)

        logits = torch.cat(
            [
                self.head.classify(x, d)
                for x, d in zip(predictions.cls_features, deltas, strict=True)
            ],
            dim=1,
        )
        targets = torch.zeros_like(logits).scatter_(
            2, classes[..., None], positive[..., None].to(logits.dtype)
        )
        # Not compiled, as in location_loss.
        loss_cls = sigmoid_focal_loss(
            logits,
            targets,
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="none",
        )
        loss_cls = (loss_cls * (matches.labels >= 0)[..., None]).sum()

        loss_box_reg = logits.new_zeros(())
        for features, d, anchors, boxes, is_positive, size in zip(
            predictions.bbox_features,
            deltas,
            guided.anchors.split(counts, dim=1),
            target_boxes.split(counts, dim=1),
            positive.split(counts, dim=1),
            guided.grid.sizes,
            strict=True,
        ):
            if is_positive.is_cuda:
                # Selecting the positive cells would force a GPU synchronisation to learn the count.
                pred_deltas = self.head.regress(features, d)
            else:
                cells = NeighboringCells.of(is_positive, size)
                pred_deltas = self.head.regress_at(features, d, cells)
                anchors, boxes, is_positive = (
                    x.flatten(0, 1)[cells.cells] for x in (anchors, boxes, is_positive)
                )
            loss_box_reg = loss_box_reg + box_regression_loss(
                anchors,
                pred_deltas,
                boxes,
                is_positive,
                self.box2box_transform,
                self.box_reg_loss_type,
                self.smooth_l1_beta,
            )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: HeadOutput
    ) -> list[Instances]:
        """N Instances with ``pred_boxes``, ``scores`` and ``pred_classes``, best first."""
        if torch.jit.is_tracing():
            return TRACEABLE[GARetinaNet](self).forward_inference(images, features, predictions)
        guided = self._guide(predictions, images.tensor.shape[-2:])
        return self._detect(predictions, guided, images.image_sizes)

    def _detect(
        self,
        predictions: HeadOutput,
        guided: GuidedAnchors,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        counts = guided.grid.cells_per_level
        N = len(image_sizes)
        candidates: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in range(N)]
        for cls_features, bbox_features, deltas, anchors, kept, size in zip(
            predictions.cls_features,
            predictions.bbox_features,
            guided.shape_deltas.split(counts, dim=1),
            guided.anchors.split(counts, dim=1),
            self.guided_anchoring.kept_cells(guided.loc_logits).split(counts, dim=1),
            guided.grid.sizes,
            strict=True,
        ):
            cells = NeighboringCells.of(kept, size)
            scores = self.head.classify_at(cls_features, deltas, cells).sigmoid()
            box_deltas = self.head.regress_at(bbox_features, deltas, cells)
            level_anchors = anchors.flatten(0, 1)[cells.cells]
            per_image = kept.sum(dim=1).tolist()
            for n, level in enumerate(
                zip(
                    scores.split(per_image),
                    box_deltas.split(per_image),
                    level_anchors.split(per_image),
                    strict=True,
                )
            ):
                candidates[n].append(self._best_of_level(*level))
        return [
            self.best_of_image(image_candidates, image_size)
            for image_candidates, image_size in zip(candidates, image_sizes, strict=True)
        ]

    def _best_of_level(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of the best cells: (k, 4), (k,), (k,)."""
        if len(scores) > self.test_topk_candidates:
            best = scores.amax(dim=1).topk(self.test_topk_candidates).indices
            scores, deltas, anchors = scores[best], deltas[best], anchors[best]
        cell, pred_class = (scores > self.test_score_thresh).nonzero().unbind(dim=1)
        boxes = self.box2box_transform.apply_deltas(deltas, anchors)
        return boxes[cell], scores[cell, pred_class], pred_class

    def best_of_image(
        self,
        candidates: list[tuple[Tensor, Tensor, Tensor]],
        image_size: tuple[int, int],
    ) -> Instances:
        """The best detections of an image after NMS, best first.

        Args:
            candidates: by level, boxes (k, 4) in pixels, scores (k,) and classes (k,) int64.
            image_size: (height, width) in pixels; boxes are clipped to it.
        """
        boxes, scores, classes = (torch.cat(x) for x in zip(*candidates, strict=True))
        finite = boxes.isfinite().all(dim=1)
        pred_boxes = Boxes(boxes[finite])
        pred_boxes.clip(image_size)
        scores, classes = scores[finite], classes[finite]
        keep = batched_nms(pred_boxes.tensor, scores, classes, self.test_nms_thresh)
        keep = keep[: self.max_detections_per_image]
        return Instances(
            image_size,
            pred_boxes=pred_boxes[keep],
            scores=scores[keep],
            pred_classes=classes[keep],
        )
