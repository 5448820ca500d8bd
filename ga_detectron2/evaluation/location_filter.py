"""Comparison of thresholds of the location filter: cells kept, recall and time."""

import statistics
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from torch import Tensor, nn

from ga_detectron2.modeling.anchors import cells_inside_images
from ga_detectron2.modeling.guided_anchoring import (
    GuidedAnchoring,
    GuidedAnchors,
    record_guided_anchors,
)

from .ground_truth import annotations_by_image, ground_truth_of_input
from .proposal_recall import evaluate_recall

__all__ = [
    "MIN_CENTER_RECALL",
    "THRESHOLDS",
    "FilterRow",
    "LocationFilterSweep",
    "choose_threshold",
    "count_kept",
    "format_filter_table",
]

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
MIN_CENTER_RECALL = 0.995
"""Share of the objects' centres that a threshold should keep."""
LIMIT = 100
"""Number of proposals per image whose recall is reported."""


class FilterRow(NamedTuple):
    """Results for one threshold; None where there are no objects.

    Attributes:
        threshold: ``MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH``.
        kept_share: share of the cells that pass the filter.
        center_recall: share of the objects for which the cell nearest to the centre passes.
        recall: average recall of the best 100 proposals, or detections of a one-stage model, over
            IoU 0.5 to 0.95, in percent.
        milliseconds: median inference time per image.
    """

    threshold: float
    kept_share: float
    center_recall: float | None
    recall: float | None
    milliseconds: float


def count_kept(probability: Tensor, centers: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Number of cells, and of objects' centres, that pass each threshold.

    Args:
        probability: (R,) location probabilities of the cells of an image.
        centers: (G,) int64 into R, the cell nearest to each object's centre.
        thresholds: T of them.

    Returns:
        (T, 2) int64.
    """
    limits = torch.tensor(thresholds, dtype=probability.dtype, device=probability.device)[:, None]
    groups = (probability, probability[centers])
    return torch.stack([(x >= limits).sum(dim=1) for x in groups], dim=1)


def choose_threshold(rows: Sequence[FilterRow]) -> float | None:
    """The highest threshold that keeps at least :data:`MIN_CENTER_RECALL` of the centres."""
    fits = [r.threshold for r in rows if (r.center_recall or 0.0) >= MIN_CENTER_RECALL]
    return max(fits, default=None)


def format_filter_table(rows: Sequence[FilterRow]) -> str:
    """A Markdown table, with a sentence on the threshold to choose."""
    lines = [
        f"| LOC_FILTER_THRESH | cells kept | centres kept | AR@{LIMIT} | ms per image |",
        "| ---: |" + " ---: |" * 4,
    ]
    for row in rows:
        numbers = (
            f"{row.threshold:g}",
            f"{100 * row.kept_share:.1f} %",
            "" if row.center_recall is None else f"{100 * row.center_recall:.1f} %",
            "" if row.recall is None else f"{row.recall:.1f}",
            f"{row.milliseconds:.1f}",
        )
        lines.append(f"| {' | '.join(numbers)} |")
    best, share = choose_threshold(rows), f"{100 * MIN_CENTER_RECALL:g} % of the objects' centres"
    lines.append("")
    lines.append(
        f"None of these thresholds keeps {share}."
        if best is None
        else f"{best:g} is the highest of these thresholds that keeps {share}."
    )
    return "\n".join(lines)


class LocationFilterSweep(DatasetEvaluator):
    """Runs the model on every image with each threshold; the backbone runs once per image.

    Requires one process and batches of one image.
    """

    def __init__(
        self, dataset_name: str, model: nn.Module, thresholds: Sequence[float] = THRESHOLDS
    ):
        """
        Args:
            dataset_name: registered; its records hold the boxes.
            model: a model with guided anchors.
            thresholds: filters to compare, besides the model's own.
        """
        self._annotations = annotations_by_image(dataset_name)
        self._model: Any = model
        self._settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
        self._thresholds = sorted({*thresholds, self._settings.loc_filter_thresh})
        self.reset()

    def reset(self) -> None:
        self._kept = torch.zeros(len(self._thresholds), 2, dtype=torch.int64)
        self._cells = 0
        self._boxes: list[dict[str, Any]] = []
        self._found: list[dict[Any, np.ndarray]] = [{} for _ in self._thresholds]
        self._seconds: list[list[float]] = [[] for _ in self._thresholds]

    def process(self, inputs: list[dict[str, Any]], outputs: Any) -> None:
        """Add an image; ignores ``outputs``, those of the configured threshold.

        Args:
            inputs: as in :meth:`.GuidedAnchorDiagnosis.process`.
        """
        (image,) = inputs
        image_id = image["image_id"]
        truth = ground_truth_of_input(image, self._annotations[image_id])
        boxes = BoxMode.convert(truth.gt_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        self._boxes += [{"image_id": image_id, "bbox": box} for box in boxes.tolist()]

        guided = self._infer(image_id, image["image"])
        inside = cells_inside_images(guided.grid, [truth.image_size])[0]
        centers = self._settings.nearest_cells(
            guided.grid, truth.gt_boxes.tensor.to(inside.device), truth.image_size
        )
        # A cell outside the image passes no threshold.
        probability = torch.where(inside, guided.loc_logits[0].sigmoid(), -1.0)
        self._kept += count_kept(probability, centers, self._thresholds).cpu()
        self._cells += int(inside.sum())

    def _infer(self, image_id: Any, image: Tensor) -> GuidedAnchors:
        """Infer an image (C, H, W) with every threshold."""
        model, settings = self._model, self._settings
        configured = settings.loc_filter_thresh
        inputs = [{"image": image}]  # Without the size of the original: boxes are not rescaled.
        with (
            record_guided_anchors(model) as records,
            _record_proposals(model) as proposals,
            _backbone_once(model) as backbone_seconds,
        ):
            try:
                for i, threshold in enumerate(self._thresholds):
                    settings.loc_filter_thresh = threshold
                    start = _now()
                    output = model(inputs)[0]
                    # The first time includes the backbone.
                    self._seconds[i].append(_now() - start + (backbone_seconds[0] if i else 0.0))
                    found = proposals.pop() if proposals else output["instances"]
                    self._found[i][image_id] = _to_rows(found)
            finally:
                settings.loc_filter_thresh = configured
        return records[0]

    def evaluate(self) -> OrderedDict[str, list[FilterRow]]:
        """Under ``location_filter``, a row for each threshold."""
        rows = []
        for i, (cells, centers) in enumerate(self._kept.tolist()):
            recall = evaluate_recall(self._boxes, self._found[i], [LIMIT]) if self._boxes else {}
            rows.append(
                FilterRow(
                    threshold=self._thresholds[i],
                    kept_share=cells / self._cells,
                    center_recall=centers / len(self._boxes) if self._boxes else None,
                    recall=recall.get(f"AR@{LIMIT}"),
                    milliseconds=1000 * statistics.median(self._seconds[i]),
                )
            )
        return OrderedDict(location_filter=rows)


@contextmanager
def _backbone_once(model: Any) -> Iterator[list[float]]:
    """Return the backbone's first output for all following inputs; records its time in seconds."""
    outputs: list[Any] = []
    seconds: list[float] = []
    forward = model.backbone.forward

    def run_once(image: Tensor) -> Any:
        if not outputs:
            start = _now()
            outputs.append(forward(image))
            seconds.append(_now() - start)
        return outputs[0]

    model.backbone.forward = run_once
    try:
        yield seconds
    finally:
        del model.backbone.forward


@contextmanager
def _record_proposals(model: Any) -> Iterator[list[Instances]]:
    """Proposals of every image, in pixels of the network's input; none of a one-stage model."""
    found: list[Instances] = []
    if not hasattr(model, "proposal_generator"):
        yield found
        return
    handle = model.proposal_generator.register_forward_hook(
        lambda _module, _inputs, output: found.extend(output[0])
    )
    try:
        yield found
    finally:
        handle.remove()


def _to_rows(found: Instances) -> np.ndarray:
    """Proposals or detections as (P, 5) rows of x, y, width, height, score."""
    if found.has("proposal_boxes"):
        boxes, scores = found.proposal_boxes.tensor, found.objectness_logits
    else:
        boxes, scores = found.pred_boxes.tensor, found.scores
    boxes = BoxMode.convert(boxes.double(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    return torch.cat([boxes, scores.double()[:, None]], dim=1).cpu().numpy()


def _now() -> float:
    """Seconds, once the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
