"""Sizes and aspect ratios of objects by level, and how well anchors could cover them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .fit import AnchorFit, centers_of_nearest_cells
from .objects import Objects, octaves_of, squares_of

__all__ = [
    "ELONGATED_BINS",
    "RATIO_BINS",
    "fit_statistics",
    "judge_gain",
    "level_statistics",
    "positive_iou",
    "size_statistics",
]

RATIO_EDGES = (1 / 6, 1 / 3, 1 / 1.5, 1.5, 3.0, 6.0)
RATIO_BINS = ("1:6+", "1:3+", "1:1.5+", "1:1", "1.5:1+", "3:1+", "6:1+")
"""Names of the bins of width to height between ``RATIO_EDGES``; 3:1+ is from 3:1 to 6:1."""
ELONGATED_BINS = ("1:6+", "1:3+", "3:1+", "6:1+")
"""Bins in which one side is over three times the other."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

LARGE_GAIN, SMALL_GAIN = 0.1, 0.03
"""Differences of recall at IoU 0.7 from which on guided anchors promise a (small) gain."""


def size_statistics(objects: Objects) -> dict[str, Any]:
    """Quantiles of sizes in pixels of the network's input.

    Args:
        objects: objects, at least one.

    Returns:
        ``size`` (square root of the area), ``shorter_side``, ``longer_side`` and ``elongation``
        (longer to shorter side), each a dictionary by quantile.
    """
    shorter, longer = objects.sizes.amin(dim=1), objects.sizes.amax(dim=1)
    return {
        "size": _quantiles((shorter * longer).sqrt()),
        "shorter_side": _quantiles(shorter),
        "longer_side": _quantiles(longer),
        "elongation": _quantiles(longer / shorter),
    }


def level_statistics(objects: Objects, settings: GuidedAnchoring) -> dict[str, Any]:
    """Objects by level, and objects that are far from the squares of any level.

    Returns:
        ``levels``: for each its ``stride``, side of its ``square``, number of ``objects`` and that
        number ``by_ratio`` (``RATIO_BINS``);
        ``below``, ``above``: objects over half an octave smaller than the smallest square, or
        larger than the largest;
        ``sharing_a_cell``: objects whose nearest cell is that of another one on the same level,
        where a cell has one guided anchor.
    """
    level = settings.box_levels(objects.boxes)
    octaves = octaves_of(objects.boxes, settings)
    counts = torch.zeros(len(settings.strides), len(RATIO_BINS), dtype=torch.int64)
    counts.index_put_((level, _ratio_bin(objects)), torch.ones_like(level), accumulate=True)
    centers = centers_of_nearest_cells(objects.boxes, objects.image_sizes, settings)
    center = centers.take_along_dim(level[:, None, None], dim=1)[:, 0].long()
    place = torch.cat([objects.image_of[:, None], level[:, None], center], dim=1)
    _, index, number = place.unique(dim=0, return_inverse=True, return_counts=True)
    return {
        "levels": [
            {"stride": s, "square": side, "objects": int(row.sum()), "by_ratio": row.tolist()}
            for s, side, row in zip(settings.strides, squares_of(settings), counts, strict=True)
        ],
        "below": int((octaves < -0.5).sum()),
        "above": int((octaves >= len(settings.strides) - 0.5).sum()),
        "sharing_a_cell": int((number[index] > 1).sum()),
    }


def positive_iou(settings: GuidedAnchoring) -> float:
    """IoU from which on a cell is positive for the shape branch."""
    rule = settings.shape_rule
    return rule.thresholds[rule.labels.index(1) - 1]


def fit_statistics(objects: Objects, found: AnchorFit, settings: GuidedAnchoring) -> dict[str, Any]:
    """The IoU that each kind of anchors could reach, of all objects and by aspect ratio.

    Returns:
        ``all`` and, by ``RATIO_BINS``, ``by_ratio``: ``objects``, and for each kind of
        ``AnchorFit`` the ``mean``, the ``quantiles`` and the shares ``recall_50`` and
        ``recall_70`` of its IoU (None without objects); in ``all`` also ``without_shape_target``,
        objects whose shape no cell learns, and ``forced``, those whose shape only the cells that
        tie for the best IoU learn.
    """
    ratio, best = _ratio_bin(objects), found.approximate
    unmatched = best < settings.shape_rule.min_positive_iou
    everything = _fit_of(found, torch.ones_like(ratio, dtype=torch.bool))
    everything["without_shape_target"] = int(unmatched.sum())
    everything["forced"] = int((~unmatched & (best < positive_iou(settings))).sum())
    return {
        "all": everything,
        "by_ratio": {name: _fit_of(found, ratio == i) for i, name in enumerate(RATIO_BINS)},
    }


def judge_gain(statistics: dict[str, Any]) -> dict[str, Any]:
    """Compare the ideal guided anchor with the approximate anchors.

    Args:
        statistics: result of :func:`fit_statistics`, with at least one object.

    Returns:
        ``verdict`` ("gain", "small gain" or "no gain"); ``recall_70`` and ``mean``, the ideal
        anchor's advantage; ``from_elongated``, the share of that recall from objects beyond 3:1
        (None without a gain); and a ``sentence``.
    """
    everything = statistics["all"]
    fixed, ideal, rpn = (everything[kind] for kind in ("approximate", "ideal", "three_ratios"))
    recall = ideal["recall_70"] - fixed["recall_70"]
    verdict = (
        "gain" if recall >= LARGE_GAIN else "small gain" if recall >= SMALL_GAIN else "no gain"
    )
    sentence = (
        f"Guided anchors promise {'' if verdict == 'no gain' else 'a '}{verdict}: an ideal guided "
        f"anchor reaches IoU 0.7 with {100 * ideal['recall_70']:.0f} % of the objects, the "
        f"approximate anchors as fixed ones with {100 * fixed['recall_70']:.0f} %, RPN's three "
        f"ratios with {100 * rpn['recall_70']:.0f} % (mean IoU {ideal['mean']:.2f}, "
        f"{fixed['mean']:.2f}, {rpn['mean']:.2f})."
    )
    share = None
    if recall >= SMALL_GAIN:
        rows = [statistics["by_ratio"][name] for name in ELONGATED_BINS]
        rows = [row for row in rows if row["objects"]]
        gains = (row["ideal"]["recall_70"] - row["approximate"]["recall_70"] for row in rows)
        counts = [row["objects"] for row in rows]
        gained = sum(n * gain for n, gain in zip(counts, gains, strict=True))
        share = gained / (recall * everything["objects"])
        sentence += (
            f" {100 * share:.0f} % of the difference to the approximate ones comes from objects "
            f"beyond 3:1, which are {100 * sum(counts) / everything['objects']:.0f} % of all."
        )
    return {
        "verdict": verdict,
        "recall_70": recall,
        "mean": ideal["mean"] - fixed["mean"],
        "from_elongated": share,
        "sentence": sentence,
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
    # torch.quantile takes at most 16 million values.
    ordered = values.sort().values
    index = [round(share * (len(ordered) - 1)) for share in shares]
    return {f"{share:g}": ordered[i].item() for share, i in zip(shares, index, strict=True)}
