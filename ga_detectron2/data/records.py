"""Records of datasets in detectron2's format, examined once when they are loaded."""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency
from detectron2.structures import BoxMode

from ga_detectron2.errors import DataError

from .classes import ModelClasses, classes_of_model
from .coco import NO_MASK
from .proposal_files import Proposals, read_proposals
from .register import adopt_dataset

__all__ = [
    "check_record_classes",
    "get_records",
    "records_to_score",
    "records_to_train",
]

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def records_to_train(cfg: CfgNode, has_own_mapper: bool = False) -> Any:
    """The records of ``DATASETS.TRAIN``, as ``build_detection_train_loader`` takes them.

    Args:
        cfg: the configuration.
        has_own_mapper: whether masks and classes may be changed by a mapper other than
            detectron2's; they are not examined then.

    Raises:
        DataError: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves no image or no object; an object
            has no usable mask (``MODEL.MASK_ON``) or a class that the model does not have; or a
            file of ``DATASETS.PROPOSAL_FILES_TRAIN`` cannot be used.
    """
    records = get_records(
        cfg.DATASETS.TRAIN,
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if has_own_mapper or not isinstance(records, list):
        return records
    classes = classes_of_model(cfg)
    if classes is not None:
        check_record_classes(records, classes)
    if cfg.MODEL.MASK_ON:
        records = _without_degenerate_masks(records)
        _check_masks(records, cfg.INPUT.MASK_FORMAT)
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
    names: str | Sequence[str],
    filter_empty: bool = True,
    min_keypoints: int = 0,
    proposal_files: Sequence[str] | None = None,
    check_consistency: bool = True,
) -> Any:
    """Like ``get_detection_dataset_dicts``; reads proposal files without executing pickled code.

    Args:
        names, filter_empty, min_keypoints, check_consistency: as detectron2's.
        proposal_files: one for each name, with proposals of all images that are kept.

    Returns:
        a list of records, or the torch dataset that is registered by such a name.

    Raises:
        DataError: no image or, with ``filter_empty``, no object is left; or a file of proposals is
            damaged, contains pickled code, or lacks an image.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        adopt_dataset(name)
    if proposal_files is None:
        return _load(names, filter_empty, min_keypoints, check_consistency)
    if len(names) != len(proposal_files):
        raise DataError(f"{len(proposal_files)} files of proposals for {len(names)} datasets")
    read = functools.cache(read_proposals)  # The same file may serve several datasets.
    found: list[Record] = []
    for name, file in zip(names, proposal_files, strict=True):
        # One by one: an id identifies an image only within its dataset.
        records = _load([name], filter_empty, min_keypoints, check_consistency)
        if not isinstance(records, list):  # detectron2 adds no proposals to a torch dataset.
            return _load(names, filter_empty, min_keypoints, check_consistency)
        found += _with_proposals(records, read(file), file, name)
    if check_consistency and all(
        "thing_classes" in MetadataCatalog.get(n).as_dict() for n in names
    ):
        check_metadata_consistency("thing_classes", names)
    return found


def check_record_classes(records: Sequence[Mapping[str, Any]], classes: ModelClasses) -> None:
    """Refuse objects of classes that a model does not have, before any image is read.

    On a GPU such a class ends in a device-side assertion. Crowds are not trained on.

    Raises:
        DataError: names the image's file, the class and the key.
    """
    for record in records:
        for annotation in record.get("annotations", ()):
            number = annotation.get("category_id", 0)
            if not 0 <= number < classes.number and not annotation.get("iscrowd", 0):
                raise DataError(
                    f"{record.get('file_name')}: an object is of class {number} (category_id), but "
                    f"{classes.key} is {classes.number}: classes must be from 0 to "
                    f"{classes.number - 1}"
                )


def _load(names: list[str], filter_empty: bool, min_keypoints: int, check_consistency: bool) -> Any:
    """detectron2's records without proposals."""
    try:
        records = get_detection_dataset_dicts(
            names, filter_empty, min_keypoints, check_consistency=check_consistency
        )
    except AssertionError as error:
        # Other assertions are about the contents of a dataset.
        if not str(error).startswith("No valid data found"):
            raise DataError(f"dataset {_quoted(names)}: {error}") from error
    else:
        # Torch datasets, and records without boxes, are not examined.
        if not filter_empty or not isinstance(records, list) or "annotations" not in records[0]:
            return records
        if any(_is_object(a, r) for r in records for a in r["annotations"]):
            return records
    keypoints = (
        f", fewer than {min_keypoints} visible keypoints "
        "(MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)"
        if min_keypoints
        else ""
    )
    raise DataError(
        f"dataset {_quoted(names)} has no object to train on: its images have only crowds, boxes "
        f"without an area in the image{keypoints} or no annotations, and "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves such images out"
    )


def _quoted(names: Sequence[str]) -> str:
    """Names of datasets with their JSON files."""
    files = {name: MetadataCatalog.get(name).get("source_file") for name in names}
    return ", ".join(f"'{name}' ({file})" if file else f"'{name}'" for name, file in files.items())


def _is_object(annotation: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether detectron2's mapper may keep it: no crowd, and with an area within the image."""
    if annotation.get("iscrowd", 0):
        return False
    mode = annotation.get("bbox_mode")
    if "bbox" not in annotation or mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        return True
    x1, y1, x2, y2 = BoxMode.convert(list(annotation["bbox"]), BoxMode(mode), BoxMode.XYXY_ABS)
    width, height = record.get("width", math.inf), record.get("height", math.inf)
    return min(x2, width) > max(x1, 0) and min(y2, height) > max(y1, 0)


def _annotations(records: Sequence[Record]) -> Any:
    return (a for record in records for a in record.get("annotations", ()))


def _without_degenerate_masks(records: list[Record]) -> list[Record]:
    """Records without the objects whose polygons are degenerate, as detectron2 loads them."""
    count = sum(NO_MASK in annotation for annotation in _annotations(records))
    if not count:
        return records
    logger.warning(f"{count} objects without a polygon of three points are left out of training")
    return [
        {**r, "annotations": [a for a in r["annotations"] if NO_MASK not in a]} for r in records
    ]


def _check_masks(records: Sequence[Record], mask_format: str) -> None:
    """Whether each object has a mask, and ``INPUT.MASK_FORMAT polygon`` polygons."""
    for record in records:
        for annotation in record.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            mask = annotation.get("segmentation")
            if not mask:
                raise DataError(
                    f"{record.get('file_name')}: an object has no segmentation, which "
                    "MODEL.MASK_ON True needs for each: add them, or set it to False"
                )
            if mask_format == "polygon" and not isinstance(mask, list):
                raise DataError(
                    f"{record.get('file_name')}: the segmentation of an object is a mask (RLE), "
                    "not polygons: set INPUT.MASK_FORMAT bitmask"
                )


def _with_proposals(
    records: Sequence[Record], proposals: Proposals, file: str, dataset_name: str
) -> list[Record]:
    """Records with the keys that detectron2's ``load_proposals_into_dataset`` adds."""
    # As in detectron2, an integer and its digits are the same id.
    index = {str(image): i for i, image in enumerate(proposals.ids)}
    found = []
    for record in records:
        image = record["image_id"]
        if str(image) not in index:
            raise DataError(
                f"{file}: has no proposals of image {image} ({record.get('file_name')}) of dataset "
                f"'{dataset_name}'; tools/dump_proposals.py makes them for all of its images"
            )
        i = index[str(image)]
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
