"""Files of stored proposals, in the formats of detectron2 and MMDetection."""

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ga_detectron2.atomic import atomic_open
from ga_detectron2.checkpoint.safe_pickle import load_numpy_pickle
from ga_detectron2.errors import CheckpointError, DataError

__all__ = ["Proposals", "read_mmdet_proposals", "read_proposals", "write_proposals"]

_OLD_NAMES = {"indexes": "ids", "scores": "objectness_logits"}
"""Names of Detectron, which detectron2 accepts too."""


class Proposals(NamedTuple):
    """The proposals of some images, in three lists of equal length.

    Attributes:
        ids: image ids, as in the dataset's records.
        boxes: (n, 4) float32 each, x1, y1, x2, y2 in pixels of the original image.
        objectness_logits: (n,) float32 each.
    """

    ids: list[int | str]
    boxes: list[np.ndarray]
    objectness_logits: list[np.ndarray]


def write_proposals(path: str, proposals: Proposals) -> None:
    """Write a file for ``DATASETS.PROPOSAL_FILES_*`` atomically.

    Raises:
        OSError: it cannot be written. An existing file at ``path`` is unchanged then.
    """
    content = {**proposals._asdict(), "bbox_mode": BoxMode.XYXY_ABS.value}
    with atomic_open(path) as file:
        pickle.dump(content, file, protocol=4)


def read_proposals(path: str) -> Proposals:
    """Read a file of detectron2 or :func:`write_proposals` without executing pickled code.

    Raises:
        DataError: the file is damaged or has other content.
    """
    content = _load(path)
    names = Proposals._fields
    if isinstance(content, dict):
        content = {_OLD_NAMES.get(name, name): value for name, value in content.items()}
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in names):
        raise DataError(f"{path}: not a file of proposals, with the lists {names}")
    proposals = Proposals(*(content[k] for k in names))
    if len({len(values) for values in proposals}) > 1:
        raise DataError(f"{path}: the lists {names} must be equally long")
    seen: set[str] = set()
    for image, boxes, logits in zip(*proposals, strict=True):
        problem = _problem(image, boxes, logits)
        if problem is None and str(image) in seen:
            problem = f"holds image {image} twice"
        if problem:
            raise DataError(f"{path}: {problem}")
        seen.add(str(image))
    mode = content.get("bbox_mode", BoxMode.XYXY_ABS.value)
    if not isinstance(mode, int) or mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise DataError(
            f"{path}: bbox_mode {mode!r} must be 0 (x1, y1, x2, y2) or 1 (x, y, width, height)"
        )
    corners = [BoxMode.convert(b, BoxMode(mode), BoxMode.XYXY_ABS) for b in proposals.boxes]
    return proposals._replace(boxes=corners)


def read_mmdet_proposals(path: str, image_ids: Sequence[int | str]) -> Proposals:
    """Read a pickle of proposals of MMDetection 1 or 2 without executing pickled code.

    It holds a list with an array (n, 5) for each image: x1, y1, x2, y2 in pixels of the original
    image, and a score from 0 to 1. Images are identified by their order in the JSON, as in
    MMDetection's datasets for testing. (detectron2 sorts them by id.)

    Args:
        path: the file.
        image_ids: ids of all images of the dataset, in the order of its JSON.

    Raises:
        DataError: the file is damaged, contains pickled code, has other content, or another number
            of images.
    """
    content = _load(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: holds a {type(content).__name__}, not a list with an array (n, 5) per image, "
            "as MMDetection's tools/test.py --out writes for a proposal model"
        )
    if len(content) != len(image_ids):
        raise DataError(
            f"{path}: holds {len(content)} images, but the dataset has {len(image_ids)}: images "
            "are identified by their order alone, so all must be there, also those without objects "
            "(MMDetection's test_mode)"
        )
    boxes, logits = [], []
    for i, rows in enumerate(content):
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 5:
            what = f"the shape {rows.shape}" if isinstance(rows, np.ndarray) else "no array"
            raise DataError(f"{path}: image {i} (of the list) has {what}, not (n, 5)")
        scores = rows[:, 4].astype(np.float64)
        if not np.isfinite(rows).all() or not ((scores >= 0) & (scores <= 1)).all():
            raise DataError(
                f"{path}: image {i} (of the list) has a score that is not from 0 to 1, or a number "
                "that is not finite"
            )
        boxes.append(rows[:, :4].astype(np.float32))
        tiny = np.finfo(np.float32).tiny
        logits.append(
            (np.log(scores.clip(min=tiny)) - np.log((1 - scores).clip(min=tiny))).astype(np.float32)
        )
    return Proposals(list(image_ids), boxes, logits)


def _problem(image: Any, boxes: Any, logits: Any) -> str | None:
    """What is wrong with the proposals of an image."""
    if not isinstance(image, int | str | np.integer):
        return f"an image has an id of type {type(image).__name__}, not an integer or a string"
    for what, values in (("boxes", boxes), ("scores", logits)):
        if not isinstance(values, np.ndarray):
            return f"image {image} has no array of {what}"
        if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
            return f"image {image} has {what} that are not finite numbers"
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"image {image} has boxes of the shape {boxes.shape}, not (n, 4)"
    if logits.shape != (len(boxes),):
        return f"image {image} has {len(boxes)} boxes and {logits.size} scores"
    return None


def _load(path: str) -> Any:
    try:
        with open(PathManager.get_local_path(path), "rb") as file:
            return load_numpy_pickle(file)
    except CheckpointError as error:
        raise DataError(f"{path}: {error}") from error
