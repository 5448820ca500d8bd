"""Evaluators of datasets, and checks that they will be able to score."""

import contextlib
import io
import logging
import os
from collections import Counter

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.utils.logger import log_first_n
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ga_detectron2.data.register import adopt_dataset
from ga_detectron2.errors import ConfigError, message_of
from ga_detectron2.evaluation import ProposalRecallEvaluator

from .build_errors import describe_error

__all__ = ["build_evaluator", "check_evaluator", "check_records", "results_folder"]

NUM_COCO_KEYPOINTS = 17


def results_folder(cfg: CfgNode, dataset_name: str, name: str = "inference") -> str:
    """Folder in ``OUTPUT_DIR`` for the results of a dataset; one for each if there are several."""
    parts = [dataset_name] if len(cfg.DATASETS.TEST) > 1 else []
    return os.path.join(cfg.OUTPUT_DIR, name, *parts)


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str) -> DatasetEvaluator:
    """Build the evaluator of a dataset for the configured model.

    Args:
        cfg: configuration; ``MODEL.META_ARCHITECTURE`` decides between boxes and proposals.
        dataset_name: registered dataset. The ``evaluator_type`` in its metadata decides on the
            evaluator; without one, detectron2 converts the dataset to COCO's format.
        output_folder: folder for the files that the evaluator writes.

    Raises:
        ConfigError: there is no evaluator for this dataset and model.
    """
    adopt_dataset(dataset_name)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if kind == "coco_panoptic_seg" and cfg.MODEL.META_ARCHITECTURE == "PanopticFPN":
        log_first_n(
            logging.WARNING,
            f"{dataset_name}: boxes and masks are scored, panoptic and semantic segmentation are "
            "not; to score these, override build_evaluator with detectron2's "
            "COCOPanopticEvaluator and SemSegEvaluator",
        )
    makes_proposals = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    if kind in ("coco", "coco_panoptic_seg") or (kind == "pascal_voc" and makes_proposals):
        coco = COCOEvaluator(
            dataset_name,
            output_dir=output_folder,
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            allow_cached_coco=False,
        )
        if not makes_proposals:
            return coco
        recall = ProposalRecallEvaluator(dataset_name, cfg.TEST.PROPOSAL_RECALL_LIMITS)
        # COCOEvaluator has converted a dataset of Pascal VOC, but cannot score its text ids.
        return recall if kind == "pascal_voc" else DatasetEvaluators([coco, recall])
    if kind == "lvis":
        return LVISEvaluator(dataset_name, output_dir=output_folder)
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    raise ConfigError(
        f"DATASETS.TEST: '{dataset_name}' has the evaluator type '{kind}'; boxes can be scored "
        "with coco, coco_panoptic_seg, lvis and pascal_voc. To train without scores, set "
        'DATASETS.TEST "()"'
    )


def check_records(dataset_name: str) -> None:
    """Check the records of a dataset that was registered in Python for what scoring needs.

    Raises:
        ConfigError: a record has no ``image_id``, ``height`` or ``width``, or two records have the
            same ``image_id``.
    """
    if MetadataCatalog.get(dataset_name).get("json_file"):
        return  # In COCO's format every image has them.
    records = DatasetCatalog.get(dataset_name)
    if not isinstance(records, list):
        return
    for key in ("image_id", "height", "width"):
        if any(record.get(key) is None for record in records):
            raise ConfigError(
                f"DATASETS.TEST: a record of '{dataset_name}' has no {key}, which scoring needs"
            )
    counts = Counter(str(record["image_id"]) for record in records)
    repeated = [image_id for image_id, count in counts.items() if count > 1]
    if repeated:
        raise ConfigError(
            f"DATASETS.TEST: several records of '{dataset_name}' have the image_id {repeated[0]}; "
            "scoring needs a different one for each image"
        )


def check_evaluator(cfg: CfgNode, dataset_name: str, evaluator: DatasetEvaluator) -> None:
    """Check that an evaluator can read its ground truth, by scoring an empty result.

    Args:
        cfg: configuration of the model.
        dataset_name: dataset of ``evaluator``.
        evaluator: evaluator of any kind; only those of COCO's format are checked.

    Raises:
        ConfigError: annotations lack what scoring needs.
    """
    members = getattr(evaluator, "_evaluators", [evaluator])
    coco = next((m._coco_api for m in members if isinstance(m, COCOEvaluator)), None)
    if coco is None or "annotations" not in coco.dataset:
        return
    needed = {"bbox": "area and iscrowd"}
    if cfg.MODEL.MASK_ON:
        needed["segm"] = "area, iscrowd and segmentation"
    if cfg.MODEL.KEYPOINT_ON:
        needed["keypoints"] = "area, iscrowd, keypoints and num_keypoints"
        _check_keypoints(cfg, dataset_name, coco)
    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    for task, fields in needed.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                empty.createIndex()
                scoring = COCOeval(coco, empty, task)
                # All categories together, and objects of all sizes, take little time.
                scoring.params.useCats = 0
                scoring.params.areaRng = scoring.params.areaRng[:1]
                scoring.evaluate()
        except Exception as error:
            reason = describe_error(error)
            if isinstance(error, KeyError):
                reason = f"an annotation has no '{message_of(error)}'"
            raise ConfigError(
                f"DATASETS.TEST: '{dataset_name}' cannot be scored ({reason}): every annotation "
                f"needs {fields}"
            ) from error


def _check_keypoints(cfg: CfgNode, dataset_name: str, coco: COCO) -> None:
    number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    found = {len(a.get("keypoints", ())) // 3 for a in coco.dataset["annotations"]}
    if found - {number}:
        raise ConfigError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number}, but annotations of "
            f"'{dataset_name}' have {', '.join(map(str, sorted(found - {number})))} keypoints"
        )
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    if sigmas != number and (sigmas or number != NUM_COCO_KEYPOINTS):
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {sigmas} numbers for {number} keypoints; it needs one "
            f"for each, such as 0.05 (only COCO's {NUM_COCO_KEYPOINTS} have known ones)"
        )
