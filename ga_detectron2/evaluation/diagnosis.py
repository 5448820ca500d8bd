"""What a model's guided anchoring does, by level: what the filter keeps, how anchors fit."""

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from torch import Tensor, nn

from ga_detectron2.modeling.anchors import (
    CellGrid,
    approximate_anchor_offsets,
    cells_inside_images,
    make_squares,
)
from ga_detectron2.modeling.guided_anchoring import (
    GuidedAnchoring,
    GuidedAnchors,
    record_guided_anchors,
)
from ga_detectron2.modeling.targets import box_levels, location_targets, pad_ground_truth

__all__ = ["GuidedAnchorDiagnosis", "diagnose", "format_diagnosis", "judge_location_branch"]

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


class GuidedAnchorDiagnosis(DatasetEvaluator):
    """Collects, over a data set, what the location and shape branches of a model say of its boxes.

    Boxes are the annotations that are no crowds, in the size in which the model sees them. Each
    belongs to one level, as in training; an IoU of a box is the best of all cells of all levels.
    Cells outside an image, in a batch padded to a larger one, are left out.

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
            model: with guided anchors.
            records: the list of :func:`record_guided_anchors`, which each batch adds to. It is
                emptied as batches are processed.
            distributed: whether to add up what all processes have seen, on the main one.
        """
        self._annotations = {
            record["image_id"]: record.get("annotations", [])
            for record in DatasetCatalog.get(dataset_name)
        }
        self._settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
        self._records = records
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        self._records.clear()
        self._num_images = 0
        self._sums = torch.zeros(len(self._settings.strides), len(_SUMS), dtype=torch.float64)

    def process(self, inputs: list[dict[str, Any]], outputs: Any) -> None:
        """Take the anchors that the model has just made of ``inputs``; ``outputs`` do not matter.

        Args:
            inputs: with ``image`` (C, H, W), ``image_id``, and ``height`` and ``width`` of the
                original.
        """
        guided = self._records[-1]
        self._records.clear()
        self._num_images += len(inputs)
        image_sizes = [(x["image"].shape[-2], x["image"].shape[-1]) for x in inputs]
        instances = [self._ground_truth(x).to(guided.anchors.device) for x in inputs]
        inside = cells_inside_images(guided.grid, image_sizes)
        kept = self._settings.kept_cells(guided) & inside
        self._add_cells(guided, inside, kept, instances)
        for n, (size, boxes) in enumerate(zip(image_sizes, instances, strict=True)):
            self._add_boxes(
                guided.grid, guided.anchors[n], inside[n], kept[n], boxes.gt_boxes.tensor, size
            )

    def evaluate(self) -> OrderedDict[str, Any] | None:
        """Under ``guided_anchors``: ``images``, ``filter`` (the threshold), ``levels`` and ``all``.

        ``levels`` is a list of dictionaries, ``all`` one of the same for all levels together:

        - ``stride`` (not in ``all``), ``cells``, ``objects``: what there is;
        - ``kept_share``: of the cells, those that pass the location filter;
        - ``center_recall``: of the boxes, those with their centre in a cell that passes, the
          nearest cell of the level that the box belongs to;
        - ``center_probability``, ``outside_probability``: mean location probability of cells that
          training would tell that they are a centre, or belong to no object;
        - ``iou_square``, ``iou_approximate``, ``iou_guided``, ``iou_kept``: mean over the boxes of
          the best IoU of a square, an approximate anchor, a guided anchor, and the guided anchor
          of a cell that passes.

        Shares and means are None where there is nothing to count. None on other than the main
        process.
        """
        sums, num_images = self._sums, self._num_images
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((sums, num_images))
            if not comm.is_main_process():
                return None
            sums = torch.stack([s for s, _ in gathered]).sum(dim=0)
            num_images = sum(n for _, n in gathered)
        levels = [
            {"stride": stride, **_shares(row)}
            for stride, row in zip(self._settings.strides, sums, strict=True)
        ]
        return OrderedDict(
            guided_anchors={
                "images": num_images,
                "filter": self._settings.loc_filter_thresh,
                "levels": levels,
                "all": _shares(sums.sum(dim=0)),
            }
        )

    def _ground_truth(self, image: dict[str, Any]) -> Instances:
        """Boxes in pixels of the image that the model sees."""
        size = (image["image"].shape[-2], image["image"].shape[-1])
        rows = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in self._annotations[image["image_id"]]
            if not a.get("iscrowd", 0)
        ]
        boxes = Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))
        boxes.scale(size[1] / image["width"], size[0] / image["height"])
        boxes.clip(size)
        return Instances(size, gt_boxes=boxes[boxes.nonempty()])

    def _add_cells(
        self, guided: GuidedAnchors, inside: Tensor, kept: Tensor, instances: list[Instances]
    ) -> None:
        settings = self._settings
        targets, weights = location_targets(
            guided.grid,
            pad_ground_truth(instances),
            settings.base_scale,
            settings.center_ratio,
            settings.ignore_ratio,
        )
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
            self._sums[:, _SUMS.index(name)] += torch.stack([x.sum() for x in levels]).cpu()

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
        own_level = box_levels(boxes, len(grid.sizes), grid.strides[0], settings.base_scale).long()
        found = {
            "objects": torch.ones_like(boxes[:, 0]),
            "centers_kept": kept[_center_cells(grid, boxes, own_level, image_size)],
            "iou_square": _best_iou(boxes, make_squares(grid, settings.base_scale)[inside]),
            "iou_approximate": self._best_approximate_iou(grid, inside, boxes),
            "iou_guided": _best_iou(boxes, anchors[inside]),
            "iou_kept": _best_iou(boxes, anchors[kept]),
        }
        for name, values in found.items():
            column = self._sums[:, _SUMS.index(name)]
            column.index_add_(0, own_level.cpu(), values.double().cpu())

    def _best_approximate_iou(self, grid: CellGrid, inside: Tensor, boxes: Tensor) -> Tensor:
        offsets = approximate_anchor_offsets(
            grid.strides,
            self._settings.base_scale,
            self._settings.scales_per_octave,
            self._settings.aspect_ratios,
            boxes.device,
        )
        counts = torch.tensor(grid.cells_per_level, device=boxes.device)
        offsets = offsets.repeat_interleave(counts, dim=0)[inside]  # (cells inside, A, 4)
        centers = grid.centers[inside].repeat(1, 2)
        best = torch.zeros_like(boxes[:, 0])
        for a in range(offsets.shape[1]):
            best = torch.max(best, _best_iou(boxes, centers + offsets[:, a]))
        return best


def diagnose(
    cfg: CfgNode, model: nn.Module, dataset_name: str, max_images: int | None = None
) -> dict[str, Any]:
    """Run a model over a data set and say what its guided anchors do.

    Args:
        cfg: for what is done to images before the model gets them.
        model: with guided anchors and weights.
        dataset_name: registered.
        max_images: the first so many of them; None: all.

    Returns:
        ``guided_anchors`` of :meth:`GuidedAnchorDiagnosis.evaluate`; empty on other than the main
        process.

    Raises:
        ValueError: the model has no guided anchors.
    """
    with record_guided_anchors(model) as records:
        diagnosis = GuidedAnchorDiagnosis(dataset_name, model, records)
        loader = build_detection_test_loader(
            DatasetCatalog.get(dataset_name)[:max_images],
            mapper=DatasetMapper(cfg, False),
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
        results = inference_on_dataset(model, loader, diagnosis)
    return results.get("guided_anchors", {})


def format_diagnosis(result: dict[str, Any]) -> str:
    """What :func:`diagnose` returns, as a table in Markdown and a sentence on the branch."""
    rows = [(f"stride {level['stride']}", level) for level in result["levels"]]
    rows.append(("all", result["all"]))
    lines = [
        "| level | cells | kept | objects | centres kept | p at centres | p outside "
        "| IoU square | approximate | guided | guided, kept |",
        "| --- |" + " ---: |" * 10,
    ]
    for name, row in rows:
        cells = [
            f"{row['cells']}",
            _percent(row["kept_share"]),
            f"{row['objects']}",
            _percent(row["center_recall"]),
            _number(row["center_probability"]),
            _number(row["outside_probability"]),
            _number(row["iou_square"]),
            _number(row["iou_approximate"]),
            _number(row["iou_guided"]),
            _number(row["iou_kept"]),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    head = f"{result['images']} images, location filter {result['filter']:g}"
    return "\n".join([head, "", *lines, "", judge_location_branch(result)])


def judge_location_branch(result: dict[str, Any]) -> str:
    """A sentence on which way up the location branch of a diagnosis was trained."""
    row = result["all"]
    center, outside = row["center_probability"], row["outside_probability"]
    if center is None or outside is None:
        return "No object belongs to any cell: nothing can be said of the location branch."
    values = f"its probability is {center:.3f} at centres of objects and {outside:.3f} outside"
    if center < outside:
        return (
            f"The location branch was trained UPSIDE DOWN: {values}. The filter drops cells for "
            "being sure centres; MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH 0 keeps all cells (see "
            "docs/deviations.md)."
        )
    return (
        f"The location branch is the right way up: {values}. "
        f"The filter keeps {100 * row['kept_share']:.1f} % of the cells."
    )


def _shares(sums: Tensor) -> dict[str, Any]:
    total = dict(zip(_SUMS, sums.tolist(), strict=True))
    shares = {
        name: total[part] / total[whole] if total[whole] else None
        for name, (whole, part) in _SHARES.items()
    }
    return {"cells": int(total["cells"]), "objects": int(total["objects"]), **shares}


def _center_cells(
    grid: CellGrid, boxes: Tensor, own_level: Tensor, image_size: Sequence[int]
) -> Tensor:
    """(M,) int64 into R: the cell within the image that is nearest to the centre of each box."""
    _, width, first, stride = grid.levels[own_level].unbind(dim=1)
    last = torch.tensor(image_size[::-1], device=boxes.device) - 1  # pixels, x and y
    last = last // stride[:, None]
    cell = ((boxes[:, :2] + boxes[:, 2:]) / 2 / stride[:, None]).round().long()
    x, y = torch.minimum(cell.clamp(min=0), last).unbind(dim=1)
    return first + y * width + x


def _best_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(M,): of each box, the best IoU with any of the anchors; 0 where there are none."""
    if not len(anchors):
        return torch.zeros_like(boxes[:, 0])
    return pairwise_iou(Boxes(boxes), Boxes(anchors)).amax(dim=1)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
