"""detectron2's records of data sets, with stored proposals that are read without executing them.

detectron2's own ``load_proposals_into_dataset`` unpickles a file of proposals, which runs whatever
the file asks for.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency
from detectron2.structures import BoxMode

from ga_detectron2.errors import DataError

from .proposal_files import ProposalFileError, Proposals, read_proposals

__all__ = ["add_proposals", "get_records", "records_to_score", "records_to_train"]


def records_to_train(cfg: CfgNode, has_masks: bool = True) -> Any:
    """The records of ``cfg.DATASETS.TRAIN``, as ``build_detection_train_loader`` takes them.

    Args:
        cfg: the configuration.
        has_masks: whether masks are read from the records; a mapper may make them otherwise.

    Raises:
        DataError: ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves no image, or no object; or an
            object has no mask, and ``MODEL.MASK_ON`` asks for it.
        ProposalFileError: a file of ``DATASETS.PROPOSAL_FILES_TRAIN`` cannot be used.
    """
    records = get_records(
        cfg.DATASETS.TRAIN,
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if cfg.MODEL.MASK_ON and has_masks and isinstance(records, list):
        _check_masks(records)
    return records


def records_to_score(cfg: CfgNode, dataset_name: str) -> Any:
    """The records of one of ``cfg.DATASETS.TEST``, as ``build_detection_test_loader`` takes them.

    Raises:
        ProposalFileError: its file of ``DATASETS.PROPOSAL_FILES_TEST`` cannot be used.
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
    """detectron2's ``get_detection_dataset_dicts``, which executes nothing in ``proposal_files``.

    Args:
        names, filter_empty, min_keypoints, check_consistency: as detectron2's. With proposals, each
            data set must keep some images.
        proposal_files: one for each name. They need proposals of the images that are kept.

    Returns:
        a list of records, or the torch data set that is registered by such a name.

    Raises:
        DataError: no image is left, or, with ``filter_empty``, no object in them.
        ProposalFileError: a file is damaged, asks for something to be executed, or lacks an image.
    """
    names = [names] if isinstance(names, str) else list(names)
    if proposal_files is None:
        return _load(names, filter_empty, min_keypoints, check_consistency)
    if len(names) != len(proposal_files):
        raise ValueError(f"{len(proposal_files)} files of proposals for {len(names)} data sets")
    read = functools.cache(read_proposals)  # The same file may be named for several sets.
    found: list[dict[str, Any]] = []
    for name, file in zip(names, proposal_files, strict=True):
        # By itself: an id stands for one image of each data set.
        records = _load([name], filter_empty, min_keypoints, check_consistency)
        if not isinstance(records, list):  # detectron2 adds no proposals to a torch data set.
            return _load(names, filter_empty, min_keypoints, check_consistency)
        found += add_proposals(records, read(file), file, name)
    if check_consistency and all(
        "thing_classes" in MetadataCatalog.get(n).as_dict() for n in names
    ):
        check_metadata_consistency("thing_classes", names)
    return found


def add_proposals(
    records: Sequence[dict[str, Any]], proposals: Proposals, file: str, dataset_name: str
) -> list[dict[str, Any]]:
    """Records with the keys that detectron2's ``load_proposals_into_dataset`` adds.

    Args:
        records: in detectron2's format; they stay as they are.
        proposals: of these images, and perhaps others.
        file, dataset_name: where they come from, for the error.

    Raises:
        ProposalFileError: an image has no proposals.
    """
    # As detectron2: a number and its digits are one id.
    index = {str(image): i for i, image in enumerate(proposals.ids)}
    found = []
    for record in records:
        image = record["image_id"]
        if str(image) not in index:
            raise ProposalFileError(
                f"{file}: has no proposals of image {image} ({record.get('file_name')}) of data "
                f"set '{dataset_name}'; tools/dump_proposals.py makes them of all its images"
            )
        i = index[str(image)]
        # Best first. argsort as detectron2's, so that equal scores come in the same order.
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


def _check_masks(records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        for annotation in record.get("annotations", ()):
            if not annotation.get("iscrowd", 0) and not annotation.get("segmentation"):
                raise DataError(
                    f"{record.get('file_name')}: an object has no segmentation, and "
                    "MODEL.MASK_ON True needs one for each: add them, or set it to False"
                )


def _load(names: list[str], filter_empty: bool, min_keypoints: int, check_consistency: bool) -> Any:
    """detectron2's records without proposals.

    Raises:
        DataError: see :func:`get_records`.
    """
    try:
        records = get_detection_dataset_dicts(
            names, filter_empty, min_keypoints, check_consistency=check_consistency
        )
    except AssertionError as error:
        # Assertions on what is within a data set have other words.
        if not str(error).startswith("No valid data found"):
            raise
    else:
        # A torch data set, or one without boxes, keeps its secrets.
        if not filter_empty or not isinstance(records, list) or "annotations" not in records[0]:
            return records
        if any(_is_object(a, r) for r in records for a in r["annotations"]):
            return records
    files = [MetadataCatalog.get(name).get("json_file") for name in names]
    sets = ", ".join(
        f"'{name}' ({file})" if file else f"'{name}'"
        for name, file in zip(names, files, strict=True)
    )
    keypoints = (
        f", or fewer than {min_keypoints} visible keypoints "
        "(MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE)"
        if min_keypoints
        else ""
    )
    raise DataError(
        f"data set {sets} has nothing to learn from: its images have no annotations but crowds and "
        f"boxes without an area in the image{keypoints}, and "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS (filter_empty) leaves out such images"
    )


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
