"""Inference of GA-RetinaNet that can be traced, with dynamic sizes and numbers of cells."""

from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ga_detectron2.modeling.feature_adaption import FeatureAdaption, FeatureRows
from ga_detectron2.modeling.retinanet import GARetinaNet, HeadOutput
from ga_detectron2.modeling.sparse_conv import NeighboringCells, conv3x3_at_cells

from .cells import Level, levels_by_image, of_image
from .traceable_adaption import adapt_cells


class TraceableGARetinaNet(DenseDetector):
    """Replacement of a :class:`GARetinaNet` in a trace, with the same layers and results.

    It cannot train.
    """

    def __init__(self, model: GARetinaNet):
        super().__init__(
            model.backbone,
            model.head,
            model.head_in_features,
            pixel_mean=model.pixel_mean.flatten().tolist(),
            pixel_std=model.pixel_std.flatten().tolist(),
        )
        self.settings = model
        self.to(model.device)
        self.eval()

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: HeadOutput
    ) -> list[Instances]:
        """Same as :meth:`GARetinaNet.forward_inference`."""
        levels = levels_by_image(
            self.settings.guided_anchoring,
            predictions.cls_features,
            predictions.loc_logits,
            predictions.shape_deltas,
        )
        return [
            self._detect(
                [of_image(x, n) for x in predictions.cls_features],
                [of_image(x, n) for x in predictions.bbox_features],
                levels[n],
                size,
            )
            for n, size in enumerate(images.image_sizes)
        ]

    def _detect(
        self,
        cls_features: list[FeatureRows],
        bbox_features: list[FeatureRows],
        levels: list[Level],
        image_size: tuple[int, int],
    ) -> Instances:
        candidates = [
            self._best_of_level(*level)
            for level in zip(cls_features, bbox_features, levels, strict=True)
        ]
        return self.settings.best_of_image(candidates, image_size)

    def _best_of_level(
        self, cls_features: FeatureRows, bbox_features: FeatureRows, level: Level
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (k, 4), scores (k,) and classes (k,) of the level's best cells."""
        head, settings = self.head, self.settings
        cells = NeighboringCells.of(level.kept[None], (level.height, level.width))
        deltas = level.shape_deltas[cells.known]
        logits = _at_cells(head.feature_adaption_cls, head.cls_score, cls_features, deltas, cells)
        box_deltas = _at_cells(
            head.feature_adaption_bbox, head.bbox_pred, bbox_features, deltas, cells
        )
        anchors = level.guided_anchors(settings.guided_anchoring, cells.cells)
        boxes = settings.box2box_transform.apply_deltas(box_deltas, anchors)

        scores = logits.sigmoid()
        # A tensor, so that the trace follows it; topk accepts it as a number.
        k: Any = torch.as_tensor(scores.shape[0]).clamp(max=settings.test_topk_candidates)
        best = scores.amax(dim=1).topk(k).indices
        scores, boxes = scores[best], boxes[best]
        cell, pred_class = (scores > settings.test_score_thresh).nonzero().unbind(dim=1)
        return boxes[cell], scores[cell, pred_class], pred_class


def _at_cells(
    adaption: FeatureAdaption,
    conv: nn.Conv2d,
    features: FeatureRows,
    shape_deltas: Tensor,
    cells: NeighboringCells,
) -> Tensor:
    adapted = adapt_cells(adaption, features, cells.known, shape_deltas)
    return conv3x3_at_cells(adapted, cells.neighbors, conv).float()
