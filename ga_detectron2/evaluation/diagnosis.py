"""Diagnosis of guided anchors by level: cells that the filter keeps, and fit of the anchors."""

from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from torch import nn

from ga_detectron2.data.images import NamingDatasetMapper
from ga_detectron2.modeling.guided_anchoring import (
    GuidedAnchoring,
    GuidedAnchors,
    record_guided_anchors,
)

from .anchor_stats import AnchorStats, summarize
from .ground_truth import annotations_by_image, ground_truth_of_input
from .location_filter import FilterRow, LocationFilterSweep, format_filter_table

__all__ = ["GuidedAnchorDiagnosis", "diagnose", "format_diagnosis", "judge_location_branch"]

MEANS = (
    *("center_probability", "outside_probability"),
    *("iou_square", "iou_approximate", "iou_guided", "iou_kept"),
)
"""Columns of the table after the counts."""
MIN_CONTRAST = 1.2
"""Minimum ratio of mean probabilities, centres to elsewhere, of a branch that has learned."""


class GuidedAnchorDiagnosis(DatasetEvaluator):
    """Statistics of the location and shape branches over the boxes of a dataset.

    Crowds are left out. Boxes are in pixels of the network's input. See :class:`.AnchorStats`.

    Example:
        >>> with record_guided_anchors(model) as records:
        ...     diagnosis = GuidedAnchorDiagnosis("coco_2017_val", model, records)
        ...     results = inference_on_dataset(model, loader, diagnosis)
    """

    def __init__(
        self,
        dataset_name: str,
        model: nn.Module,
        records: list[GuidedAnchors],
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: registered; its records hold the boxes.
            model: a model with guided anchors.
            records: the list of :func:`record_guided_anchors`; emptied with each batch.
            distributed: whether to sum over all processes, on the main one.
        """
        self._annotations = annotations_by_image(dataset_name)
        self._settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
        self._records = records
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        self._records.clear()
        self._num_images = 0
        self._stats = AnchorStats(self._settings)

    def process(self, inputs: list[dict[str, Any]], outputs: Any) -> None:
        """Add the anchors that the model has just predicted for ``inputs``; ignores ``outputs``.

        Args:
            inputs: dictionaries with ``image`` (C, H, W), ``image_id``, and ``height`` and
                ``width`` of the original.
        """
        guided = self._records[-1]
        self._records.clear()
        self._num_images += len(inputs)
        boxes = [ground_truth_of_input(x, self._annotations[x["image_id"]]) for x in inputs]
        self._stats.add(guided, boxes)

    def evaluate(self) -> OrderedDict[str, Any] | None:
        """Under ``guided_anchors``: ``images``, ``filter`` (the threshold), ``levels`` and ``all``.

        ``levels`` is a list of dictionaries, ``all`` one of the same for all levels together:

        - ``stride`` (not in ``all``), and numbers of ``cells`` and ``objects``;
        - ``kept_share``: share of the cells that pass the location filter;
        - ``center_recall``: share of the boxes for which the cell nearest to the centre, on the
          level of the box, passes;
        - ``center_probability``, ``outside_probability``: mean location probability of cells whose
          location target is 1, or 0;
        - ``iou_square``, ``iou_approximate``, ``iou_guided``, ``iou_kept``: mean over the boxes of
          the best IoU with a square, an approximate anchor, a guided anchor, and the guided anchor
          of a cell that passes.

        Shares and means are None where there is nothing to count. Returns None on other than the
        main process.
        """
        sums, num_images = self._stats.sums, self._num_images
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((sums, num_images))
            if not comm.is_main_process():
                return None
            sums = torch.stack([s for s, _ in gathered]).sum(dim=0)
            num_images = sum(n for _, n in gathered)
        levels = [
            {"stride": stride, **summarize(row)}
            for stride, row in zip(self._settings.strides, sums, strict=True)
        ]
        return OrderedDict(
            guided_anchors={
                "images": num_images,
                "filter": self._settings.loc_filter_thresh,
                "levels": levels,
                "all": summarize(sums.sum(dim=0)),
            }
        )


def diagnose(
    cfg: CfgNode, model: nn.Module, dataset_name: str, max_images: int | None = None
) -> dict[str, Any]:
    """Run :class:`GuidedAnchorDiagnosis` and :class:`.LocationFilterSweep` on a dataset.

    Args:
        cfg: configuration of the input images.
        model: a model with guided anchors and loaded weights.
        dataset_name: registered.
        max_images: use only the first images; None for all.

    Returns:
        ``guided_anchors`` of :meth:`GuidedAnchorDiagnosis.evaluate`, and in it ``location_filter``,
        the fields of a :class:`.FilterRow` for each threshold.

    Raises:
        ValueError: the model has no guided anchors.
    """
    with record_guided_anchors(model) as records:
        evaluators = [
            GuidedAnchorDiagnosis(dataset_name, model, records),
            LocationFilterSweep(dataset_name, model),
        ]
        loader = build_detection_test_loader(
            DatasetCatalog.get(dataset_name)[:max_images],
            mapper=NamingDatasetMapper(cfg, False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        results = inference_on_dataset(model, loader, DatasetEvaluators(evaluators))
    rows = [row._asdict() for row in results.get("location_filter", [])]
    return {**results["guided_anchors"], "location_filter": rows}


def format_diagnosis(result: dict[str, Any]) -> str:
    """Result of :func:`diagnose` as Markdown tables, with sentences on branch and filter."""
    rows = [(f"stride {level['stride']}", level) for level in result["levels"]]
    rows.append(("all", result["all"]))
    lines = [
        "| level | cells | kept | objects | centres kept | p at centres | p outside "
        "| IoU square | approximate | guided | guided, kept |",
        "| --- |" + " ---: |" * 10,
    ]
    for name, row in rows:
        counts = [str(row["cells"]), _percent(row["kept_share"])]
        counts += [str(row["objects"]), _percent(row["center_recall"])]
        means = [_number(row[key]) for key in MEANS]
        lines.append(f"| {name} | {' | '.join(counts + means)} |")
    head = f"{result['images']} images, location filter {result['filter']:g}"
    parts = [head, "", *lines, "", judge_location_branch(result)]
    if compared := result.get("location_filter"):
        parts += ["", format_filter_table([FilterRow(**row) for row in compared])]
    return "\n".join(parts)


def judge_location_branch(result: dict[str, Any]) -> str:
    """A sentence on whether the location branch has learned, or has learned the opposite."""
    row = result["all"]
    center, outside = row["center_probability"], row["outside_probability"]
    if center is None or outside is None:
        return "No object belongs to any cell: the location branch cannot be judged."
    values = f"its probability is {center:.3f} at centres of objects and {outside:.3f} outside"
    if max(center, outside) < MIN_CONTRAST * min(center, outside):
        return (
            f"The location branch does not separate objects from the rest (yet): {values}. "
            f"The filter keeps {100 * row['kept_share']:.1f} % of the cells."
        )
    if center < outside:
        return (
            f"The location branch is INVERTED: {values}. The filter drops the cells that are most "
            "likely centres; MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH 0 keeps all cells (see "
            "docs/deviations.md)."
        )
    return (
        f"The location branch is correct: {values}. "
        f"The filter keeps {100 * row['kept_share']:.1f} % of the cells."
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
