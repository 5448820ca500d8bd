"""Sizes and aspect ratios of objects by level, and how anchors could cover them, as numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .fit import AnchorFit, nearest_cells_by_level
from .objects import Geometry, Objects

__all__ = ["ELONGATED_BINS", "RATIO_BINS", "fit_statistics", "level_statistics", "size_statistics"]

RATIO_EDGES = (1 / 6, 1 / 3, 1 / 1.5, 1.5, 3.0, 6.0)
RATIO_BINS = ("1:6+", "1:3+", "1:1.5+", "1:1", "1.5:1+", "3:1+", "6:1+")
"""Of width to height: names of the bins between ``RATIO_EDGES``; 3:1+ is from 3:1 to 6:1."""
ELONGATED_BINS = ("1:6+", "1:3+", "3:1+", "6:1+")
"""Those where one side is over three times the other."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def size_statistics(objects: Objects) -> dict[str, Any]:
    """Quantiles, in pixels of the network's input, of G objects; empty without objects.

    Returns:
        ``size`` (the root of the area), ``shorter_side``, ``longer_side``, and ``elongation``
        (longer to shorter side), each a dictionary by quantile.
    """
    sizes = objects.sizes
    if not len(sizes):
        return {}
    shorter, longer = sizes.amin(dim=1), sizes.amax(dim=1)
    return {
        "size": _quantiles(sizes.prod(dim=1).sqrt()),
        "shorter_side": _quantiles(shorter),
        "longer_side": _quantiles(longer),
        "elongation": _quantiles(longer / shorter),
    }


def level_statistics(objects: Objects, geometry: Geometry) -> dict[str, Any]:
    """Which level objects go to, and which no level's squares are like.

    Returns:
        ``levels``: for each its ``stride``, side of its ``square``, number of ``objects`` and that
        number ``by_ratio`` (``RATIO_BINS``);
        ``below``, ``above``: objects over half an octave smaller than the smallest square, or
        larger than the largest;
        ``sharing_a_cell``: objects whose nearest cell is that of another one on the same level,
        where a cell has one guided anchor.
    """
    level = geometry.levels_of(objects.boxes)
    octaves = geometry.octaves_of(objects.boxes)
    ratio = _ratio_bin(objects)
    counts = torch.zeros(len(geometry.strides), len(RATIO_BINS), dtype=torch.int64)
    counts.index_put_((level, ratio), torch.ones_like(level), accumulate=True)
    cells = nearest_cells_by_level(objects.boxes, objects.image_sizes, geometry.strides)
    cell = cells.gather(1, level[:, None, None].expand(-1, 1, 2))[:, 0]
    place = torch.cat([objects.image_of[:, None], level[:, None], cell], dim=1)
    _, index, number = place.unique(dim=0, return_inverse=True, return_counts=True)
    return {
        "levels": [
            {"stride": s, "square": side, "objects": int(row.sum()), "by_ratio": row.tolist()}
            for s, side, row in zip(geometry.strides, geometry.squares, counts, strict=True)
        ],
        "below": int((octaves < -0.5).sum()),
        "above": int((octaves >= len(geometry.strides) - 0.5).sum()),
        "sharing_a_cell": int((number[index] > 1).sum()) if len(index) else 0,
    }


def fit_statistics(objects: Objects, found: AnchorFit, geometry: Geometry) -> dict[str, Any]:
    """What the kinds of anchors reach, of all objects and by aspect ratio.

    Returns:
        ``all`` and, by ``RATIO_BINS``, ``by_ratio``: ``objects``, and for each kind of
        ``AnchorFit`` the ``mean``, the ``quantiles`` and the shares ``recall_50`` and
        ``recall_70`` of its IoU (None without objects); in ``all`` also ``without_shape_target``,
        objects that get no cell to learn their shape, and ``forced``, those that get only the
        cells which tie for the best IoU.
    """
    ratio = _ratio_bin(objects)
    best = found.approximate
    none = best < geometry.min_positive_iou
    everything = _fit_of(found, torch.ones_like(ratio, dtype=torch.bool))
    everything["without_shape_target"] = int(none.sum())
    everything["forced"] = int((~none & (best < geometry.positive_iou)).sum())
    return {
        "all": everything,
        "by_ratio": {name: _fit_of(found, ratio == i) for i, name in enumerate(RATIO_BINS)},
    }


def _fit_of(found: AnchorFit, chosen: Tensor) -> dict[str, Any]:
    result: dict[str, Any] = {"objects": int(chosen.sum())}
    for name, iou in found._asdict().items():
        values = iou[chosen]
        result[name] = None
        if len(values):
            result[name] = {
                "mean": values.double().mean().item(),
                "recall_50": (values >= 0.5).double().mean().item(),
                "recall_70": (values >= 0.7).double().mean().item(),
                "quantiles": _quantiles(values),
            }
    return result


def _ratio_bin(objects: Objects) -> Tensor:
    """(G,) int64 into ``RATIO_BINS``."""
    width, height = objects.sizes.unbind(dim=1)
    return torch.bucketize(width / height, torch.tensor(RATIO_EDGES))


def _quantiles(values: Tensor, shares: Sequence[float] = QUANTILES) -> dict[str, float]:
    # torch.quantile takes no more than 16 million values; sorting takes any number.
    ordered = values.sort().values
    index = [round(share * (len(ordered) - 1)) for share in shares]
    return {f"{share:g}": ordered[i].item() for share, i in zip(shares, index, strict=True)}
