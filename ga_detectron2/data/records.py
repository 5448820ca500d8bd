"""Records of datasets in detectron2's format, examined once when they are loaded."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from ga_detectron2.errors import DataError

from .classes import ModelClasses, classes_of_model
from .coco import NO_MASK
from .proposal_files import Proposals, read_proposals
from .register import adopt_dataset

__all__ = ["get_records", "records_to_score", "records_to_train"]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def records_to_train(cfg: CfgNode, has_own_mapper: bool = False) -> Any:
    """The records of ``DATASETS.TRAIN``, as ``build_detection_train_loader`` takes them.

    Args:
        cfg: the configuration.
        has_own_mapper: whether masks and classes may be changed by a mapper other than
            detectron2's; they are not examined then.

    Raises:
        DataError: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves no image; an object has no usable
            mask (``MODEL.MASK_ON``) or a class that the model does not have; or a file of
            ``DATASETS.PROPOSAL_FILES_TRAIN`` cannot be used.
    """
    records = get_records(
        cfg.DATASETS.TRAIN,
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if has_own_mapper or not isinstance(records, list):
        return records
    if cfg.MODEL.MASK_ON:
        records = _without_degenerate_masks(records)
    classes = classes_of_model(cfg)
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue  # not trained on
            fault = classes and _fault_of_class(annotation, classes)
            if cfg.MODEL.MASK_ON:
                fault = fault or _fault_of_mask(annotation, cfg.INPUT.MASK_FORMAT)
            if fault:
                raise DataError(f"{record.get('file_name')}: {fault}")
    return records


def records_to_score(cfg: CfgNode, dataset_name: str) -> Any:
    """The records of a dataset, as ``build_detection_test_loader`` takes them.

    Args:
        cfg: the configuration.
        dataset_name: one of ``DATASETS.TEST``, or any other where no proposals are loaded.

    Raises:
        DataError: the file of ``DATASETS.PROPOSAL_FILES_TEST`` cannot be used.
    """
    files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(dataset_name)]]
    return get_records([dataset_name], filter_empty=False, proposal_files=files)


def get_records(
    names: Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
) -> Any:
    """Like ``get_detection_dataset_dicts``; reads proposal files without executing pickled code.

    Args:
        names, filter_empty, min_keypoints: as detectron2's.
        proposal_files: one for each name, with proposals of all images that are kept.

    Returns:
        a list of records, or the torch dataset that is registered by such a name.

    Raises:
        DataError: no image is left; or a file of proposals is damaged, contains pickled code, or
            lacks an image.
    """
    for name in names:
        adopt_dataset(name)
    if proposal_files is None:
        return _load(names, filter_empty, min_keypoints)
    found: list[Record] = []
    for name, file in zip(names, proposal_files, strict=True):
        # One by one: an id identifies an image only within its dataset.
        records = _load([name], filter_empty, min_keypoints)
        found += _with_proposals(records, read_proposals(file), file)
    return found


def _load(names: Sequence[str], filter_empty: bool, min_keypoints: int) -> Any:
    """detectron2's records without proposals."""
    try:
        return get_detection_dataset_dicts(list(names), filter_empty, min_keypoints)
    except AssertionError as error:
        files = {name: MetadataCatalog.get(name).get("source_file") for name in names}
        known = ", ".join(f"'{x}' ({file})" if file else f"'{x}'" for x, file in files.items())
        # Other assertions are about the contents of a dataset.
        if not str(error).startswith("No valid data found"):
            raise DataError(f"dataset {known}: {error}") from error
        keypoints = (
            f", fewer than {min_keypoints} visible keypoints "
            "(MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)"
            if min_keypoints
            else ""
        )
        raise DataError(
            f"dataset {known} has no object to train on: its images have only crowds{keypoints} or "
            "no annotations, and DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves such images out"
        ) from error


def _fault_of_class(annotation: Mapping[str, Any], classes: ModelClasses) -> str | None:
    """Whether the model has the object's class, which would end a GPU's process."""
    number = annotation.get("category_id", 0)
    if 0 <= number < classes.number:
        return None
    return (
        f"an object is of class {number} (category_id), but {classes.key} is {classes.number}: "
        f"classes must be from 0 to {classes.number - 1}"
    )


def _fault_of_mask(annotation: Mapping[str, Any], mask_format: str) -> str | None:
    """Whether the object has a mask, and for ``INPUT.MASK_FORMAT polygon`` polygons."""
    mask = annotation.get("segmentation")
    if not mask:
        return (
            "an object has no segmentation, which MODEL.MASK_ON True needs for each: add them, or "
            "set it to False"
        )
    if mask_format == "polygon" and not isinstance(mask, list):
        return (
            "the segmentation of an object is a mask (RLE), not polygons: set INPUT.MASK_FORMAT "
            "bitmask"
        )
    return None


def _without_degenerate_masks(records: list[Record]) -> list[Record]:
    """Records without the objects whose polygons are degenerate, as detectron2 loads them."""
    count = sum(NO_MASK in a for record in records for a in record.get("annotations", ()))
    if not count:
        return records
    logger.warning(f"{count} objects without a polygon of three points are left out of training")
    return [
        {**r, "annotations": [a for a in r["annotations"] if NO_MASK not in a]} for r in records
    ]


def _with_proposals(records: Sequence[Record], proposals: Proposals, file: str) -> list[Record]:
    """Records with the keys that detectron2's ``load_proposals_into_dataset`` adds."""
    # As in detectron2, an integer and its digits are the same id.
    index = {str(image): i for i, image in enumerate(proposals.ids)}
    found = []
    for record in records:
        i = index.get(str(record["image_id"]))
        if i is None:
            raise DataError(
                f"{file}: has no proposals for image {record['image_id']} "
                f"({record.get('file_name')}); create them with tools/dump_proposals.py"
            )
        # Best first; argsort as detectron2's, for the same order of equal scores.
        order = proposals.objectness_logits[i].argsort()[::-1]
        found.append(
            {
                **record,
                "proposal_boxes": proposals.boxes[i][order],
                "proposal_objectness_logits": proposals.objectness_logits[i][order],
                "proposal_bbox_mode": BoxMode.XYXY_ABS,
            }
        )
    return found
