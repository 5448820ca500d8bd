"""Per-level statistics of guided anchors against ground truth."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from ga_detectron2.modeling.anchors import CellGrid, cells_inside_images, make_squares
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring, GuidedAnchors
from ga_detectron2.modeling.targets import pad_ground_truth

# Name of a mean: (denominator, numerator), accumulated per level.
_MEANS = {
    "kept_share": ("cells", "kept"),
    "center_recall": ("objects", "centers_kept"),
    "center_probability": ("center_cells", "center_probability"),
    "outside_probability": ("outside_cells", "outside_probability"),
    "iou_square": ("objects", "iou_square"),
    "iou_approximate": ("objects", "iou_approximate"),
    "iou_guided": ("objects", "iou_guided"),
    "iou_kept": ("objects", "iou_kept"),
}
_SUMS = list(dict.fromkeys(itertools.chain(*_MEANS.values())))


class AnchorStats:
    """Sums over batches of what the location and shape branches predict for objects.

    An object belongs to one level, as in training; its IoU is the best with any cell of any level.
    Cells outside an image, in a batch padded to a larger one, are left out.

    Attributes:
        sums: (L, S) float64 on the CPU; see :func:`summarize`.
    """

    def __init__(self, settings: GuidedAnchoring):
        self._settings = settings
        self.sums = torch.zeros(len(settings.strides), len(_SUMS), dtype=torch.float64)

    def add(self, guided: GuidedAnchors, instances: Sequence[Instances]) -> None:
        """Add a batch.

        Args:
            guided: guided anchors of the batch.
            instances: ``gt_boxes`` of each image, in pixels of the network's input.
        """
        instances = [x.to(guided.anchors.device) for x in instances]
        inside = cells_inside_images(guided.grid, [x.image_size for x in instances])
        kept = self._settings.kept_cells(guided.loc_logits) & inside
        self._add_cells(guided, inside, kept, instances)
        for n, image in enumerate(instances):
            if len(image):
                self._add_boxes(guided.grid, guided.anchors[n], inside[n], kept[n], image)

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
        self, grid: CellGrid, anchors: Tensor, inside: Tensor, kept: Tensor, image: Instances
    ) -> None:
        """Add one image: anchors (R, 4), inside and kept (R,), boxes."""
        settings, boxes = self._settings, image.gt_boxes.tensor
        squares = make_squares(grid, settings.base_scale)
        level = settings.box_levels(boxes).cpu()
        for name, values in (
            ("objects", torch.ones_like(boxes[:, 0])),
            ("centers_kept", kept[settings.nearest_cells(grid, boxes, image.image_size)]),
            ("iou_square", _best_iou(boxes, squares[inside])),
            ("iou_approximate", best_approximate_anchors(settings, grid, inside, boxes).iou),
            ("iou_guided", _best_iou(boxes, anchors[inside])),
            ("iou_kept", _best_iou(boxes, anchors[kept])),
        ):
            self.sums[:, _SUMS.index(name)].index_add_(0, level, values.double().cpu())


def summarize(sums: Tensor) -> dict[str, Any]:
    """Counts and means of (S,) sums, see :meth:`.GuidedAnchorDiagnosis.evaluate`."""
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    means = {
        name: total[part] / total[whole] if total[whole] else None
        for name, (whole, part) in _MEANS.items()
    }
    return {"cells": int(total["cells"]), "objects": int(total["objects"]), **means}


class BestAnchors(NamedTuple):
    """For each of G boxes, the anchor of the highest IoU.

    Attributes:
        anchors: (G, 4).
        iou: (G,).
        cells: (G,) int64 into R.
    """

    anchors: Tensor
    iou: Tensor
    cells: Tensor


def best_approximate_anchors(
    settings: GuidedAnchoring, grid: CellGrid, inside: Tensor, boxes: Tensor
) -> BestAnchors:
    """Approximate anchors, of all cells of all levels, that cover boxes best.

    Args:
        settings: the model's settings.
        grid: the cells.
        inside: (R,) bool, cells within the image, at least one.
        boxes: (G, 4) in pixels of the network's input.
    """
    cells = inside.nonzero()[:, 0]
    anchors = settings.approximate_anchors(grid, cells)
    # One shape at a time: the IoU of all at once would take A times the memory.
    found = [pairwise_iou(Boxes(boxes), Boxes(x)).max(dim=1) for x in anchors.unbind(dim=1)]
    iou, shape = torch.stack([x.values for x in found]).max(dim=0)
    cell = torch.stack([x.indices for x in found]).gather(0, shape[None])[0]
    return BestAnchors(anchors[cell, shape], iou, cells[cell])


def _best_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(M,): the best IoU of each box with any of the anchors; 0 where there are none."""
    if not len(anchors):
        return torch.zeros_like(boxes[:, 0])
    return pairwise_iou(Boxes(boxes), Boxes(anchors)).amax(dim=1)
