"""Objects by level and aspect ratio, and how well anchors could cover them."""

from typing import Any

import torch
from torch import Tensor

from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .fit import AnchorFit, centers_of_nearest_cells
from .objects import Objects

__all__ = ["RATIO_BINS", "fit_statistics", "level_statistics"]

RATIO_EDGES = (1 / 6, 1 / 3, 1 / 1.5, 1.5, 3.0, 6.0)
RATIO_BINS = ("1:6+", "1:3+", "1:1.5+", "1:1", "1.5:1+", "3:1+", "6:1+")
"""Names of the bins of width to height between ``RATIO_EDGES``; 3:1+ is from 3:1 to 6:1."""


def level_statistics(objects: Objects, settings: GuidedAnchoring) -> dict[str, Any]:
    """Objects by level.

    Returns:
        ``levels``: for each its ``stride``, side of its ``square``, number of ``objects`` and that
        number ``by_ratio`` (``RATIO_BINS``);
        ``sharing_a_cell``: objects whose nearest cell is that of another one on the same level,
        where a cell has one guided anchor.
    """
    level = settings.box_levels(objects.boxes)
    counts = torch.zeros(len(settings.strides), len(RATIO_BINS), dtype=torch.int64)
    counts.index_put_((level, _ratio_bin(objects)), torch.ones_like(level), accumulate=True)
    centers = centers_of_nearest_cells(objects.boxes, objects.image_sizes, settings)
    center = centers.take_along_dim(level[:, None, None], dim=1)[:, 0].long()
    cell = torch.cat([objects.image_of[:, None], level[:, None], center], dim=1)
    _, number = cell.unique(dim=0, return_counts=True)
    return {
        "levels": [
            {
                "stride": stride,
                "square": settings.base_scale * stride,
                "objects": int(row.sum()),
                "by_ratio": row.tolist(),
            }
            for stride, row in zip(settings.strides, counts, strict=True)
        ],
        "sharing_a_cell": int(number[number > 1].sum()),
    }


def fit_statistics(objects: Objects, found: AnchorFit) -> dict[str, dict[str, Any]]:
    """The IoU that each kind of anchors could reach, by aspect ratio and of ``all`` objects.

    Returns:
        by the names of ``RATIO_BINS`` and ``all``: ``objects``, and for each kind of ``AnchorFit``
        the ``mean`` of its IoU and the shares ``recall_50`` and ``recall_70`` (None without
        objects).
    """
    ratio = _ratio_bin(objects)
    chosen = {name: ratio == i for i, name in enumerate(RATIO_BINS)}
    chosen["all"] = torch.ones_like(ratio, dtype=torch.bool)
    return {name: _fit_of(found, mask) for name, mask in chosen.items()}


def _fit_of(found: AnchorFit, chosen: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = {"objects": int(chosen.sum())}
    for name, iou in found._asdict().items():
        values = iou[chosen].double()
        result[name] = None
        if len(values):
            recalls = {f"recall_{p}": (values >= p / 100).double().mean().item() for p in (50, 70)}
            result[name] = {"mean": values.mean().item(), **recalls}
    return result


def _ratio_bin(objects: Objects) -> Tensor:
    """(G,) int64 into ``RATIO_BINS``."""
    width, height = objects.sizes.unbind(dim=1)
    return torch.bucketize(width / height, torch.tensor(RATIO_EDGES))
