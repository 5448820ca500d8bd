"""Average recall of region proposals, as papers report it."""

import contextlib
import io
import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence
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

__all__ = ["ProposalRecallEvaluator", "evaluate_recall"]

logger = logging.getLogger(__name__)


class ProposalRecallEvaluator(DatasetEvaluator):
    """Average recall of proposals by pycocotools' own evaluation, regardless of classes.

    This is what the paper and MMDetection report. detectron2's COCOEvaluator has a faster
    evaluation of its own for proposals ("box_proposals"), whose numbers differ a little:

    - Here proposals choose their boxes in the order of their scores, at each IoU threshold anew.
      There the best pairs of box and proposal are formed once, whatever the scores.
    - Here a box on an image without proposals counts as missed. There it is not counted.
    - Crowds are no boxes to find, here or there. Here they also take up proposals that fit
      nothing else, which changes precision but no recall.

    With images that all have proposals and boxes that do not overlap, both are equal.
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
                COCOEvaluator adds for data sets without one).
            limits: numbers of best proposals an image at which recall is computed.
            distributed: whether to collect the results of all processes, on the main one.

        Raises:
            ValueError: ``limits`` is empty or not positive, or the data set has no ``json_file``.
        """
        if not limits or any(limit < 1 for limit in limits):
            raise ValueError(
                f"Limits of proposals an image, {list(limits)}, must be one or more positive "
                "numbers, such as [100, 300, 1000] (TEST.PROPOSAL_RECALL_LIMITS)"
            )
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if json_file is None:
            raise ValueError(f"Data set '{dataset_name}' has no annotations in COCO's JSON format")
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = COCO(PathManager.get_local_path(json_file))
        self._limits = sorted(set(limits))
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        self._image_ids: list[int] = []
        self._rows: list[np.ndarray] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the ``proposals`` of images, Instances in pixels of the original image."""
        for image, output in zip(inputs, outputs, strict=True):
            proposals = output["proposals"].to("cpu")
            scores = proposals.objectness_logits.double()
            best = scores.argsort(descending=True, stable=True)[: self._limits[-1]]
            boxes = BoxMode.convert(
                proposals.proposal_boxes.tensor[best].double().numpy(),
                BoxMode.XYXY_ABS,
                BoxMode.XYWH_ABS,
            )
            ids = np.full((len(best), 1), image["image_id"], dtype=np.float64)
            self._image_ids.append(image["image_id"])
            self._rows.append(np.hstack([ids, boxes, scores[best].numpy()[:, None]]))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Recall in percent under ``proposal_recall``, NaN where there is nothing to find.

        Keys are ``AR@100``, ``ARs@100`` (boxes of less than 32² pixels), ``ARm@100``, ``ARl@100``
        (of more than 96²), and so on for each limit. None on other than the main process.
        """
        image_ids, rows = self._image_ids, self._rows
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather((image_ids, rows))
            if not comm.is_main_process():
                return None
            image_ids = list(itertools.chain(*(ids for ids, _ in gathered)))
            rows = list(itertools.chain(*(r for _, r in gathered)))
        if "annotations" not in self._coco.dataset:
            logger.info("Annotations are not available for evaluation.")
            return OrderedDict()
        detections = np.concatenate(rows) if rows else np.zeros((0, 6))
        scores = evaluate_recall(self._coco, image_ids, detections, self._limits)
        logger.info("Recall of proposals (COCO API): \n" + create_small_table(scores))
        return OrderedDict(proposal_recall=scores)


def evaluate_recall(
    coco: COCO, image_ids: Sequence[int], proposals: np.ndarray, limits: Sequence[int]
) -> dict[str, float]:
    """Average recall over IoU 0.5 to 0.95.

    Args:
        coco: ground truth.
        image_ids: of the images to count.
        proposals: (P, 6) float64, rows of image id, x, y, width, height, score.
        limits: numbers of best proposals an image, rising.

    Returns:
        percentages by the keys of :meth:`ProposalRecallEvaluator.evaluate`.
    """
    # Classes play no part, but pycocotools only looks at detections of a class that it knows.
    category = np.full((len(proposals), 1), coco.getCatIds()[0], dtype=np.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, _detections(coco, np.hstack([proposals, category])), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = sorted(set(image_ids))
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0]  # (IoU thresholds, area ranges, limits)
    scores = {}
    for m, limit in enumerate(limits):
        for a, suffix in enumerate(("", "s", "m", "l")):  # pycocotools' order of areas
            values = recall[:, a, m]
            # pycocotools marks with -1 what no box was there for.
            mean = 100 * values.mean() if (values > -1).all() else float("nan")
            scores[f"AR{suffix}@{limit}"] = float(mean)
    return scores


def _detections(coco: COCO, rows: np.ndarray) -> COCO:
    if len(rows):
        return coco.loadRes(rows)
    # loadRes fails on no detections at all, which are a poor result, not an error.
    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty
