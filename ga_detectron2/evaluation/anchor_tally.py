"""Counts and sums of what a model's guided anchoring does to objects of known boxes, by level."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ga_detectron2.modeling.anchors import (
    CellGrid,
    cells_inside_images,
    make_squares,
)
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors
from ga_detectron2.modeling.targets import pad_ground_truth

__all__ = ["AnchorTally", "shares"]

# What is summed up for each level; the first of a pair is what the second is divided by.
_SHARES = {
    "kept_share": ("cells", "kept"),
    "center_recall": ("objects", "centers_kept"),
    "center_probability": ("center_cells", "center_probability"),
    "outside_probability": ("outside_cells", "outside_probability"),
    "iou_square": ("objects", "iou_square"),
    "iou_approximate": ("objects", "iou_approximate"),
    "iou_guided": ("objects", "iou_guided"),
    "iou_kept": ("objects", "iou_kept"),
}
_SUMS = list(dict.fromkeys(itertools.chain(*_SHARES.values())))


class AnchorTally:
    """Adds up, batch by batch, what the location and shape branches say of objects.

    An object belongs to one level, as in training; its IoU is the best of all cells of all levels.
    Cells outside an image, in a batch padded to a larger one, are left out.

    Attributes:
        sums: (L, S) float64 on the CPU; :func:`shares` makes something of one of its rows.
    """

    def __init__(self, settings: GuidedAnchoring):
        self._settings = settings
        self.sums = torch.zeros(len(settings.strides), len(_SUMS), dtype=torch.float64)

    def add(self, guided: GuidedAnchors, instances: Sequence[Instances]) -> None:
        """Take what a model made of a batch.

        Args:
            guided: of the batch, without gradient or with.
            instances: of each image, in the size in which the model saw it: ``gt_boxes``.
        """
        instances = [x.to(guided.anchors.device) for x in instances]
        image_sizes = [x.image_size for x in instances]
        inside = cells_inside_images(guided.grid, image_sizes)
        kept = self._settings.kept_cells(guided) & inside
        self._add_cells(guided, inside, kept, instances)
        for n, (size, boxes) in enumerate(zip(image_sizes, instances, strict=True)):
            self._add_boxes(
                guided.grid, guided.anchors[n], inside[n], kept[n], boxes.gt_boxes.tensor, size
            )

    def _add_cells(
        self, guided: GuidedAnchors, inside: Tensor, kept: Tensor, instances: Sequence[Instances]
    ) -> None:
        targets, weights = self._settings.location_targets(guided.grid, pad_ground_truth(instances))
        center = inside & (targets > 0)
        outside = inside & (targets == 0) & (weights > 0)
        probability = guided.loc_logits.sigmoid()
        for name, values in (
            ("cells", inside),
            ("kept", kept),
            ("center_cells", center),
            ("center_probability", probability * center),
            ("outside_cells", outside),
            ("outside_probability", probability * outside),
        ):
            levels = values.double().sum(dim=0).split(guided.grid.cells_per_level)
            self.sums[:, _SUMS.index(name)] += torch.stack([x.sum() for x in levels]).cpu()

    def _add_boxes(
        self,
        grid: CellGrid,
        anchors: Tensor,
        inside: Tensor,
        kept: Tensor,
        boxes: Tensor,
        image_size: tuple[int, int],
    ) -> None:
        """One image: (R, 4), (R,), (R,), (M, 4)."""
        if not len(boxes):
            return
        settings = self._settings
        own_level = settings.box_levels(boxes)
        found = {
            "objects": torch.ones_like(boxes[:, 0]),
            "centers_kept": kept[settings.nearest_cells(grid, boxes, image_size)],
            "iou_square": _best_iou(boxes, make_squares(grid, settings.base_scale)[inside]),
            "iou_approximate": self._best_approximate_iou(grid, inside, boxes),
            "iou_guided": _best_iou(boxes, anchors[inside]),
            "iou_kept": _best_iou(boxes, anchors[kept]),
        }
        for name, values in found.items():
            column = self.sums[:, _SUMS.index(name)]
            column.index_add_(0, own_level.cpu(), values.double().cpu())

    def _best_approximate_iou(self, grid: CellGrid, inside: Tensor, boxes: Tensor) -> Tensor:
        anchors = self._settings.approximate_anchors(grid, inside.nonzero()[:, 0])
        best = torch.zeros_like(boxes[:, 0])
        for a in range(anchors.shape[1]):
            best = torch.max(best, _best_iou(boxes, anchors[:, a]))
        return best


def shares(sums: Tensor) -> dict[str, Any]:
    """The counts, shares and means of (S,) sums, see ``GuidedAnchorDiagnosis.evaluate``."""
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    values = {
        name: total[part] / total[whole] if total[whole] else None
        for name, (whole, part) in _SHARES.items()
    }
    return {"cells": int(total["cells"]), "objects": int(total["objects"]), **values}


def _best_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(M,): of each box, the best IoU with any of the anchors; 0 where there are none."""
    if not len(anchors):
        return torch.zeros_like(boxes[:, 0])
    return pairwise_iou(Boxes(boxes), Boxes(anchors)).amax(dim=1)
