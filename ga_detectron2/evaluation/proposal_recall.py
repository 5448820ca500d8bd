"""Average recall of region proposals, as papers report it."""

import contextlib
import io
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ga_detectron2.data.proposal_files import read_proposals
from ga_detectron2.errors import DataError

__all__ = [
    "ProposalRecallEvaluator",
    "evaluate_recall",
    "recall_of_metrics",
    "recall_of_proposals",
]

logger = logging.getLogger(__name__)


class ProposalRecallEvaluator(DatasetEvaluator):
    """Average recall of proposals by pycocotools' own evaluation, regardless of classes.

    This is what the paper and MMDetection report. detectron2's COCOEvaluator has its own, faster
    evaluation of proposals ("box_proposals"), whose results differ slightly:

    - Here proposals are matched to boxes in the order of their scores, separately for each IoU
      threshold. detectron2 forms the pairs of box and proposal with the best IoU once, regardless
      of the scores.
    - Here a box in an image without proposals counts as missed; detectron2 does not count it.
    - Crowds are not counted as boxes in either. Here they also absorb proposals that match nothing
      else, which changes precision but not recall.

    Both are equal if all images have proposals and boxes do not overlap.
    """

    def __init__(
        self,
        dataset_name: str,
        limits: Sequence[int] = (100, 300, 1000),
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: registered, with a ``json_file`` in COCO's format in its metadata (which a
                COCOEvaluator adds for datasets without one).
            limits: numbers of best proposals per image at which recall is computed.
            distributed: whether to collect the results of all processes on the main one.

        Raises:
            ValueError: ``limits`` is empty or not positive, or the dataset has no ``json_file``.
        """
        if not limits or any(limit < 1 for limit in limits):
            raise ValueError(
                f"limits of proposals per image, {list(limits)}, must be one or more positive "
                "numbers, such as [100, 300, 1000] (TEST.PROPOSAL_RECALL_LIMITS)"
            )
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if json_file is None:
            raise ValueError(f"dataset '{dataset_name}' has no annotations in COCO's JSON format")
        self._annotations = _read_annotations(json_file)
        self._limits = sorted(set(limits))
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        self._proposals: dict[Any, np.ndarray] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the ``proposals`` of images, Instances in pixels of the original image."""
        for image, output in zip(inputs, outputs, strict=True):
            proposals = output["proposals"].to("cpu")
            scores = proposals.objectness_logits.double()
            best = scores.argsort(descending=True, stable=True)[: self._limits[-1]]
            boxes = BoxMode.convert(
                proposals.proposal_boxes.tensor[best].double().numpy(),
                BoxMode.XYXY_ABS,
                BoxMode.XYWH_ABS,
            )
            self._proposals[image["image_id"]] = np.column_stack([boxes, scores[best].numpy()])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Recall in percent under ``proposal_recall``, NaN where there is nothing to find.

        Keys are ``AR@100``, ``ARs@100`` (boxes of less than 32² pixels), ``ARm@100``, ``ARl@100``
        (of more than 96²), and so on for each limit. None on other than the main process.
        """
        proposals = self._proposals
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(proposals)
            if not comm.is_main_process():
                return None
            proposals = {k: v for part in gathered for k, v in part.items()}
        if self._annotations is None:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        scores = evaluate_recall(self._annotations, proposals, self._limits)
        logger.info("Recall of proposals (COCO API): \n" + create_small_table(scores))
        return OrderedDict(proposal_recall=scores)


def evaluate_recall(
    annotations: Sequence[Mapping[str, Any]],
    proposals: Mapping[Any, np.ndarray],
    limits: Sequence[int],
) -> dict[str, float]:
    """Average recall over IoU 0.5 to 0.95.

    Args:
        annotations: ground truth in COCO's format.
        proposals: (P, 5) float64, rows of x, y, width, height, score, by image id. Images without
            an entry do not count.
        limits: numbers of best proposals per image, in ascending order.

    Returns:
        percentages by the keys of :meth:`ProposalRecallEvaluator.evaluate`.
    """
    # Images, boxes and proposals are numbered here: pycocotools takes an annotation with the id 0
    # for none, and image ids may be strings. All are of one class.
    number_of = {image_id: n for n, image_id in enumerate(proposals)}
    truth = [
        {
            "image_id": number_of[x["image_id"]],
            "bbox": x["bbox"],
            "area": x.get("area", x["bbox"][2] * x["bbox"][3]),
            "iscrowd": int(x.get("iscrowd", 0)),
        }
        for x in annotations
        if x["image_id"] in number_of
    ]
    found = [
        {"image_id": n, "bbox": row[:4], "area": row[2] * row[3], "iscrowd": 0, "score": row[4]}
        for n, rows in enumerate(proposals.values())
        for row in rows.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*(_coco_of(len(number_of), x) for x in (truth, found)), "bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0]  # (IoU thresholds, area ranges, limits)
    scores = {}
    for m, limit in enumerate(limits):
        for a, suffix in enumerate(("", "s", "m", "l")):  # pycocotools' order of areas
            values = recall[:, a, m]
            # pycocotools reports -1 where there are no boxes.
            mean = 100 * values.mean() if (values > -1).all() else float("nan")
            scores[f"AR{suffix}@{limit}"] = float(mean)
    return scores


def _coco_of(num_images: int, annotations: list[dict[str, Any]]) -> COCO:
    """Annotations of images 0 to ``num_images - 1``, all of one class."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": n} for n in range(num_images)],
        "categories": [{"id": 1}],
        "annotations": [{**x, "id": i, "category_id": 1} for i, x in enumerate(annotations, 1)],
    }
    coco.createIndex()
    return coco


def _read_annotations(json_file: str) -> list[dict[str, Any]] | None:
    with PathManager.open(json_file, encoding="utf-8") as file:
        annotations: list[dict[str, Any]] | None = json.load(file).get("annotations")
    return annotations


def recall_of_metrics(path: str) -> dict[int, float]:
    """Average recall in percent by number of proposals, from the metrics of a training run.

    Args:
        path: a ``metrics.json``, or its folder. The last values are used.

    Raises:
        OSError: there is no such file.
        DataError: it holds no recall.
    """
    path = os.path.join(path, "metrics.json") if os.path.isdir(path) else path
    last: dict[str, Any] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            last.update(json.loads(line))
    for group in ("proposal_recall", "box_proposals"):  # ours, or that of detectron2
        found = {
            int(match[1]): float(value)
            for key, value in last.items()
            if (match := re.fullmatch(rf"{group}/AR@(\d+)", key)) and value is not None
        }
        if found:
            return dict(sorted(found.items()))
    raise DataError(
        f"{path}: no recall of proposals, such as proposal_recall/AR@100, which only a model with "
        "MODEL.META_ARCHITECTURE ProposalNetwork is scored by"
    )


def recall_of_proposals(path: str, json_file: str, limits: Sequence[int]) -> dict[int, float]:
    """Average recall in percent by number of proposals, from detectron2's ``box_proposals.pkl``.

    Args:
        path: the file, which its COCOEvaluator writes; read without executing pickled code.
        json_file: annotations in COCO's format.
        limits: numbers of proposals, in ascending order.

    Raises:
        DataError: the file is damaged or has other content.
    """
    proposals = {}
    for image_id, boxes, logits in zip(*read_proposals(path), strict=True):
        boxes = BoxMode.convert(
            np.asarray(boxes, dtype=np.float64).reshape(-1, 4), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
        )
        proposals[image_id] = np.column_stack([boxes, np.asarray(logits, dtype=np.float64)])
    scores = evaluate_recall(_read_annotations(json_file) or [], proposals, limits)
    return {limit: scores[f"AR@{limit}"] for limit in limits}
