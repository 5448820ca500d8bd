"""Scores of detections and proposals by pycocotools, also by class and by aspect ratio."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Scores = dict[str, float]
# Longer side to shorter side of an object, from the first number to below the second.
ASPECT_RATIOS = {"1:1+": (1, 1.5), "1.5:1+": (1.5, 3), "3:1+": (3, 6), "6:1+": (6, 1e5)}
LIMITS = (1, 3, 10, 30, 100, 300, 1000)


def score_detections(truth: COCO, detections: Sequence[dict[str, Any]]) -> Scores:
    """Average precision in percent.

    Args:
        truth: annotations.
        detections: in COCO's format, at most 100 per image.

    Returns:
        ``AP``, ``AP50`` and ``AP75``, then ``AP`` by the name of every class and by aspect ratio;
        NaN where there are no objects.
    """
    evaluation = _evaluate(truth, detections, by_class=True, limits=(100,), ratios=ASPECT_RATIOS)
    precision = evaluation.eval["precision"][..., 0]  # (IoU, recall, classes, aspect ratios)
    scores = {
        "AP": _percent(precision[..., 0]),
        "AP50": _percent(precision[0, ..., 0]),
        "AP75": _percent(precision[5, ..., 0]),
    }
    for k, category in enumerate(truth.loadCats(evaluation.params.catIds)):
        scores[f"AP {category['name']}"] = _percent(precision[:, :, k, 0])
    for a, label in enumerate(ASPECT_RATIOS, 1):
        scores[f"AP {label}"] = _percent(precision[..., a])
    return scores


def score_proposals(truth: COCO, proposals: Sequence[dict[str, Any]]) -> Scores:
    """Average recall in percent, regardless of classes.

    Args:
        truth: annotations.
        proposals: ``image_id``, ``bbox`` and ``score``; their ``category_id`` does not matter.

    Returns:
        ``AR@`` each of :data:`LIMITS`, then ``AR@100`` by aspect ratio.
    """
    recall = _evaluate(truth, proposals, by_class=False, limits=LIMITS).eval["recall"]
    scores = {f"AR@{limit}": _percent(recall[:, 0, 0, m]) for m, limit in enumerate(LIMITS)}
    # Separately, since the time grows with the number of proposals and of ranges.
    evaluation = _evaluate(truth, proposals, by_class=False, limits=(100,), ratios=ASPECT_RATIOS)
    for a, label in enumerate(ASPECT_RATIOS, 1):
        scores[f"AR@100 {label}"] = _percent(evaluation.eval["recall"][:, 0, a])
    return scores


def _evaluate(
    truth: COCO,
    found: Sequence[dict[str, Any]],
    by_class: bool,
    limits: Sequence[int],
    ratios: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> COCOeval:
    """Evaluate boxes, all together and with aspect ratios in the role of pycocotools' areas.

    As it does for small, medium and large objects, a score by aspect ratio counts the objects in
    the range, and of the other boxes only those that match none and are themselves in it.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(list(found)), "bbox")
        for side in (evaluation.cocoGt, evaluation.cocoDt):
            for annotation in side.dataset["annotations"]:
                annotation["area"] = aspect_ratio(annotation["bbox"])
        evaluation.params.useCats = int(by_class)
        evaluation.params.maxDets = list(limits)
        # pycocotools' ranges include both ends.
        ranges = [(a, float(np.nextafter(b, 0))) for a, b in ratios.values()]
        evaluation.params.areaRng = [(0.0, float("inf")), *ranges]
        evaluation.params.areaRngLbl = ["all", *ratios]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def aspect_ratio(bbox: Sequence[float]) -> float:
    """Longer to shorter side of a box (x, y, width, height)."""
    return max(bbox[2:]) / max(min(bbox[2:]), 1e-3)


def _percent(values: np.ndarray) -> float:
    """Mean of the values that are not -1, pycocotools' value where there are no objects."""
    known = values[values > -1]
    return float(100 * known.mean()) if len(known) else float("nan")
