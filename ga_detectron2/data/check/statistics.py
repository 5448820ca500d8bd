"""Objects by level and aspect ratio, and how well anchors could cover them, as rows of tables."""

from typing import Any

import torch
from torch import Tensor

from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .fit import AnchorFit, centers_of_nearest_cells
from .objects import Objects

__all__ = ["KINDS", "RATIO_BINS", "fit_by_ratio", "objects_by_level", "objects_sharing_a_cell"]

RATIO_EDGES = (1 / 6, 1 / 3, 1 / 1.5, 1.5, 3.0, 6.0)
RATIO_BINS = ("1:6+", "1:3+", "1:1.5+", "1:1", "1.5:1+", "3:1+", "6:1+")
"""Names of the bins of width to height between ``RATIO_EDGES``; 3:1+ is from 3:1 to 6:1."""

KINDS = ("square", "RPN, 3 ratios", "approximate", "ideal guided")
"""Names of the anchors of ``AnchorFit``."""


def objects_by_level(objects: Objects, settings: GuidedAnchoring) -> list[dict[str, Any]]:
    """For each level its ``stride``, the side of its ``square``, number and share of ``objects``.

    A number for each of ``RATIO_BINS`` follows.
    """
    level = settings.box_levels(objects.boxes)
    counts = torch.zeros(len(settings.strides), len(RATIO_BINS), dtype=torch.int64)
    counts.index_put_((level, _ratio_bin(objects)), torch.ones_like(level), accumulate=True)
    rows = []
    for stride, by_ratio in zip(settings.strides, counts.tolist(), strict=True):
        number = sum(by_ratio)
        head = {"stride": stride, "square": settings.base_scale * stride, "objects": number}
        by_name = zip(RATIO_BINS, by_ratio, strict=True)
        rows.append({**head, "share": number / len(level), **dict(by_name)})
    return rows


def objects_sharing_a_cell(objects: Objects, settings: GuidedAnchoring) -> int:
    """Number of objects whose nearest cell, with one guided anchor, is that of another one."""
    level = settings.box_levels(objects.boxes)[:, None]
    centers = centers_of_nearest_cells(objects.boxes, objects.image_sizes, settings)
    center = centers.take_along_dim(level[..., None], dim=1)[:, 0].long()
    _, number = torch.cat([objects.image_of[:, None], level, center], dim=1).unique(
        dim=0, return_counts=True
    )
    return int(number[number > 1].sum())


def fit_by_ratio(objects: Objects, found: AnchorFit) -> list[dict[str, Any]]:
    """The IoU that each kind of anchors could reach, by aspect ratio and of all objects.

    Returns:
        rows with ``width:height`` (``RATIO_BINS``, "all"), the number of ``objects``, and for each
        of ``KINDS`` the mean IoU and the shares of objects from IoU 0.5 and 0.7 (None without
        objects).
    """
    ratio = _ratio_bin(objects)
    chosen = {name: ratio == i for i, name in enumerate(RATIO_BINS)}
    chosen["all"] = torch.ones_like(ratio, dtype=torch.bool)
    return [
        {
            "width:height": name,
            "objects": int(mask.sum()),
            **{kind: _fit_of(iou[mask]) for kind, iou in zip(KINDS, found, strict=True)},
        }
        for name, mask in chosen.items()
    ]


def _fit_of(iou: Tensor) -> list[float] | None:
    if not len(iou):
        return None
    return [x.double().mean().item() for x in (iou, iou >= 0.5, iou >= 0.7)]


def _ratio_bin(objects: Objects) -> Tensor:
    """(G,) int64 into ``RATIO_BINS``."""
    width, height = objects.sizes.unbind(dim=1)
    return torch.bucketize(width / height, torch.tensor(RATIO_EDGES))
