"""GA-RPN: the region proposal network with guided anchors ("Guided Anchoring", section 3).

Naming as in ``anchors.py``, and from detectron2's ``rpn.py``:

    hidden: the features after the head's shared 3x3 convolution, as rows (N, Hi * Wi, C)
    pred_objectness_logits: whether the guided anchor of a cell covers an object
    pred_anchor_deltas: from the guided anchor to the proposal
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ga_detectron2.config import guided_anchor_node

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
from .targets import GroundTruth, Sample, pad_ground_truth, sample_cells


class GuidedAnchorRPNHead(StandardRPNHead):
    """detectron2's RPN head with a location and a shape branch and feature adaption."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        conv_dims: Sequence[int] = (-1,),
        deform_groups: int = 4,
        adaption_init_std: float = 0.01,
        prior_prob: float = 0.01,
    ):
        """
        Args:
            in_channels: channels of every level.
            conv_dims: channels of the shared convolutions, see detectron2's StandardRPNHead.
            deform_groups: groups of channels that share their offsets in feature adaption; 0 holds
                the offsets at zero.
            adaption_init_std: standard deviation of feature adaption's initial weights.
            prior_prob: location probability at the start of training.
        """
        super().__init__(in_channels=in_channels, num_anchors=1, conv_dims=conv_dims)
        channels = self.objectness_logits.in_channels
        self.anchor_loc = nn.Conv2d(channels, 1, kernel_size=1)
        self.anchor_shape = nn.Conv2d(channels, 2, kernel_size=1)
        init_branches(self.anchor_loc, self.anchor_shape, prior_prob)
        self.feature_adaption = FeatureAdaption(
            channels, channels, deform_groups, adaption_init_std
        )
        # Rows are then views of the convolution's output.
        self.conv.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Sequence[ShapeSpec]) -> dict:
        return {
            "in_channels": input_shape[0].channels,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
            "deform_groups": guided_anchor_node(cfg).DEFORM_GROUPS,
            "adaption_init_std": guided_anchor_node(cfg).ADAPTION_INIT_STD,
        }

    def forward(self, features: list[Tensor]) -> tuple[list[FeatureRows], Tensor, Tensor]:
        """Location and shape outputs.

        Args:
            features: L maps (N, C, Hi, Wi).

        Returns:
            hidden features of L levels, location logits (N, R), shape outputs (N, R, 2).
        """
        hidden = [to_rows(self.conv(x)) for x in features]
        outputs = [_linear(x.rows, self.anchor_loc, self.anchor_shape) for x in hidden]
        loc_logits, shape_deltas = torch.cat(outputs, dim=1).split([1, 2], dim=2)
        return hidden, loc_logits.squeeze(2), shape_deltas

    def predict_boxes(self, adapted: Tensor) -> Tensor:
        """Adapted features (..., C) to (..., 5): objectness logit and four anchor deltas."""
        return _linear(adapted, self.objectness_logits, self.anchor_deltas).float()


def _linear(rows: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """The outputs of two 1x1 convolutions on rows (..., C), side by side."""
    assert first.bias is not None
    assert second.bias is not None
    weight = torch.cat([first.weight, second.weight]).flatten(1)
    return F.linear(rows, weight, torch.cat([first.bias, second.bias]))


@PROPOSAL_GENERATOR_REGISTRY.register()
class GuidedAnchorRPN(nn.Module):
    """GA-RPN, a replacement for detectron2's RPN in any model with a proposal generator."""

    @configurable
    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: GuidedAnchorRPNHead,
        guided_anchoring: GuidedAnchoring,
        box_rule: MatchRule,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (2000, 2000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        loss_weight: dict[str, float] | None = None,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 1.0,
        proposals_in_training: bool = True,
    ):
        """
        Args:
            in_features: names of the backbone's levels, finest first.
            head: the layers.
            guided_anchoring: settings, targets and losses of guided anchors.
            box_rule: positive and negative guided anchors.
            box2box_transform: from guided anchors to proposals.
            batch_size_per_image, positive_fraction: anchors sampled per image for the losses, and
                the largest share of positives.
            pre_nms_topk, post_nms_topk, nms_thresh, min_box_size: as in detectron2's RPN; pairs are
                for training and inference.
            loss_weight: factor of ``loss_rpn_cls`` and ``loss_rpn_loc``.
            box_reg_loss_type: one of ``losses.BOX_LOSS_TYPES``.
            smooth_l1_beta: transition point of smooth L1 from quadratic to linear.
            proposals_in_training: whether training returns proposals. If False, returns empty
                proposals and saves most of feature adaption.
        """
        super().__init__()
        strides, base_scale = guided_anchoring.strides, guided_anchoring.base_scale
        if strides[0] >= 8 and strides[-1] >= 128 and base_scale >= 8:
            raise ValueError(
                f"MODEL.RPN.IN_FEATURES {list(in_features)} with strides {list(strides)}, those of "
                f"RetinaNet, and MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE {base_scale}: no square is "
                f"smaller than {strides[0] * base_scale} pixels. Use the levels ['p2', 'p3', 'p4', "
                "'p5', 'p6'] of build_resnet_fpn_backbone, or a base scale of 4"
            )
        if len(box2box_transform.weights) != 4:
            raise ValueError(
                f"MODEL.RPN.BBOX_REG_WEIGHTS {tuple(box2box_transform.weights)} must be four, for "
                "dx, dy, dw, dh: guided anchors are axis-aligned, rotated boxes are not supported"
            )
        if box_reg_loss_type not in BOX_LOSS_TYPES:
            raise ValueError(
                f"MODEL.RPN.BBOX_REG_LOSS_TYPE '{box_reg_loss_type}' must be one of "
                f"{', '.join(BOX_LOSS_TYPES)}"
            )
        self.in_features = list(in_features)
        self.rpn_head = head
        self.guided_anchoring = guided_anchoring
        self.box_rule = box_rule
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        self.loss_weight = (
            dict(loss_weight) if loss_weight else {"loss_rpn_cls": 1.0, "loss_rpn_loc": 1.0}
        )
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.proposals_in_training = proposals_in_training

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        rpn = cfg.MODEL.RPN
        if rpn.HEAD_NAME not in ("StandardRPNHead", "GuidedAnchorRPNHead"):
            raise ValueError(
                f"MODEL.RPN.HEAD_NAME '{rpn.HEAD_NAME}' cannot be used with GuidedAnchorRPN, which "
                "brings its own head: leave the key at its default, 'StandardRPNHead'"
            )
        shapes = input_levels("MODEL.RPN.IN_FEATURES", rpn.IN_FEATURES, input_shape)
        return {
            "in_features": rpn.IN_FEATURES,
            "head": GuidedAnchorRPNHead(cfg, shapes),
            "guided_anchoring": GuidedAnchoring.from_config(cfg, [s.stride for s in shapes]),
            "box_rule": MatchRule.from_config(cfg, "RPN", guided_anchor_node(cfg).MIN_POSITIVE_IOU),
            "box2box_transform": Box2BoxTransform(weights=tuple(rpn.BBOX_REG_WEIGHTS)),
            "batch_size_per_image": rpn.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": rpn.POSITIVE_FRACTION,
            "pre_nms_topk": (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "nms_thresh": rpn.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "loss_weight": {
                "loss_rpn_cls": rpn.LOSS_WEIGHT,
                "loss_rpn_loc": rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT,
            },
            "box_reg_loss_type": rpn.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": rpn.SMOOTH_L1_BETA,
            # detectron2's ProposalNetwork trains on the losses alone.
            "proposals_in_training": cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork",
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: the N images.
            features: maps of the backbone by name.
            gt_instances: ground truth of the N images, required in training.

        Returns:
            proposals, N Instances with ``proposal_boxes`` and ``objectness_logits``, best first;
            losses by name (none in inference).
        """
        if torch.jit.is_tracing() and not self.training:
            return TRACEABLE[GuidedAnchorRPN](self).forward(images, features)
        hidden, loc_logits, shape_deltas = self.rpn_head([features[f] for f in self.in_features])
        counts = (len(loc_logits), len(images.image_sizes), len(gt_instances or images.image_sizes))
        if len(set(counts)) > 1:
            raise ValueError(
                f"GuidedAnchorRPN got features of {counts[0]} images, {counts[1]} images and "
                f"{counts[2]} ground truths: the counts must be equal (in TridentNet, repeat "
                "images and ground truths for each branch)"
            )
        sizes = [(x.height, x.width) for x in hidden]
        guided = self.guided_anchoring(sizes, loc_logits, shape_deltas, images.tensor.shape[-2:])
        if not self.training:
            return self._propose_from_kept_cells(hidden, guided, images.image_sizes), {}

        if gt_instances is None:
            raise ValueError("GuidedAnchorRPN needs gt_instances in training")
        losses = self.losses(hidden, guided, images.image_sizes, pad_ground_truth(gt_instances))
        if self.proposals_in_training:
            proposals = self._propose_from_all_cells(hidden, guided, images.image_sizes)
        else:
            proposals = [_no_proposals(size, loc_logits) for size in images.image_sizes]
        return proposals, losses

    # ------------------------------------------------------------------------------------ training

    def losses(
        self,
        hidden: list[FeatureRows],
        guided: GuidedAnchors,
        image_sizes: Sequence[tuple[int, int]],
        ground_truth: GroundTruth,
    ) -> dict[str, Tensor]:
        """The four losses of GA-RPN by name.

        Args:
            hidden: L levels.
            guided: their guided anchors.
            image_sizes: (height, width) of the N images in pixels, without padding.
            ground_truth: their boxes.
        """
        inside = self.guided_anchoring.cells_inside(guided, image_sizes)
        losses = self.guided_anchoring.losses(guided, inside, ground_truth)
        with torch.no_grad():
            matches = match_anchors(guided.anchors, inside, ground_truth, self.box_rule)
            sample = sample_cells(matches.labels, self.batch_size_per_image, self.positive_fraction)
            anchors = sample.take(guided.anchors)
            target_boxes = ground_truth.take(sample.take(matches.boxes))
            normalizer = mean_over_workers(sample.normalizer())
            log_per_image(
                {
                    "rpn/num_pos_anchors": sample.positive.sum(dim=1),
                    "rpn/num_neg_anchors": sample.negative.sum(dim=1),
                }
            )

        adapted = self._adapt_sample(hidden, guided, sample)
        logits, deltas = _split(self.rpn_head.predict_boxes(adapted))
        loss_cls = F.binary_cross_entropy_with_logits(
            logits, sample.positive.float(), reduction="none"
        )
        loss_cls = torch.where(sample.positive | sample.negative, loss_cls, 0.0).sum()
        loss_loc = box_regression_loss(
            anchors,
            deltas,
            target_boxes,
            sample.positive,
            self.box2box_transform,
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        losses["loss_rpn_cls"] = self.loss_weight["loss_rpn_cls"] * (loss_cls / normalizer)
        losses["loss_rpn_loc"] = self.loss_weight["loss_rpn_loc"] * (loss_loc / normalizer)
        return losses

    def _adapt_sample(
        self, hidden: list[FeatureRows], guided: GuidedAnchors, sample: Sample
    ) -> Tensor:
        """Adapted features (N, B, C) of the sampled cells; only these have a loss."""
        adaption = self.rpn_head.feature_adaption
        N, R = guided.loc_logits.shape
        image = torch.arange(N, device=sample.cells.device)[:, None]
        levels = guided.grid.levels[guided.grid.level_of(sample.cells)]
        height, width, first, _ = levels.unbind(dim=-1)
        # One gather for all levels: selecting the cells of one would force a GPU synchronisation
        # to learn their count.
        taps = adaption.gather_taps_of_maps(
            torch.cat([level.rows for level in hidden], dim=1),
            (first + image * R).flatten(),
            (height.flatten(), width.flatten()),
            (sample.cells - first).flatten(),
            sample.take(guided.shape_deltas).flatten(0, 1),
        )
        return adaption.project(taps).unflatten(0, sample.cells.shape)

    # ----------------------------------------------------------------------------------- proposals

    @torch.no_grad()
    def _propose_from_all_cells(
        self,
        hidden: list[FeatureRows],
        guided: GuidedAnchors,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Proposals of all cells, without the location filter, for training."""
        counts = guided.grid.cells_per_level
        proposals, scores = [], []
        for level, anchors, deltas in zip(
            hidden,
            guided.anchors.split(counts, dim=1),
            guided.shape_deltas.split(counts, dim=1),
            strict=True,
        ):
            output = self.rpn_head.feature_adaption(level, deltas, self.rpn_head.predict_boxes)
            logits, box_deltas = _split(output.rows)
            logits, best = logits.topk(min(self.pre_nms_topk[self.training], logits.shape[1]))
            best = best[..., None].expand(-1, -1, 4)
            proposals.append(self._decode(box_deltas.gather(1, best), anchors.gather(1, best)))
            scores.append(logits)
        return self._find_top_proposals(proposals, scores, image_sizes)

    @torch.no_grad()
    def _propose_from_kept_cells(
        self,
        hidden: list[FeatureRows],
        guided: GuidedAnchors,
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Proposals of the cells that pass the location filter; only these are adapted."""
        counts = guided.grid.cells_per_level
        N = len(image_sizes)
        proposals: list[list[Tensor]] = [[] for _ in range(N)]
        scores: list[list[Tensor]] = [[] for _ in range(N)]
        for level, kept, anchors, deltas in zip(
            hidden,
            self.guided_anchoring.kept_cells(guided.loc_logits).split(counts, dim=1),
            guided.anchors.split(counts, dim=1),
            guided.shape_deltas.split(counts, dim=1),
            strict=True,
        ):
            cells = kept.flatten().nonzero().squeeze(1)
            output = self.rpn_head.feature_adaption.at_cells(
                level, cells, deltas.flatten(0, 1)[cells], self.rpn_head.predict_boxes
            )
            logits, box_deltas = _split(output)
            boxes = self._decode(box_deltas, anchors.flatten(0, 1)[cells])
            per_image = kept.sum(dim=1).tolist()
            for n, (b, s) in enumerate(
                zip(boxes.split(per_image), logits.split(per_image), strict=True)
            ):
                proposals[n].append(b[None])
                scores[n].append(s[None])
        return [
            self._find_top_proposals(p, s, [size])[0]
            for p, s, size in zip(proposals, scores, image_sizes, strict=True)
        ]

    def _decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        boxes = self.box2box_transform.apply_deltas(deltas.reshape(-1, 4), anchors.reshape(-1, 4))
        return boxes.reshape(anchors.shape)

    def _find_top_proposals(
        self,
        proposals: list[Tensor],
        scores: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        return find_top_rpn_proposals(
            proposals,
            scores,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )


def _split(output: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 5) to objectness logits (...) and anchor deltas (..., 4)."""
    return output[..., 0], output[..., 1:]


def _no_proposals(image_size: tuple[int, int], like: Tensor) -> Instances:
    boxes = Boxes(like.new_zeros((0, 4), dtype=torch.float32))
    return Instances(
        image_size, proposal_boxes=boxes, objectness_logits=like.new_zeros(0, dtype=torch.float32)
    )
