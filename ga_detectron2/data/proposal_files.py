"""Files of stored proposals: detectron2's format, and what MMDetection writes."""

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ga_detectron2.atomic import atomic_open
from ga_detectron2.checkpoint.safe_pickle import load_numpy_pickle
from ga_detectron2.errors import CheckpointError, DataError

__all__ = [
    "ProposalFileError",
    "Proposals",
    "read_mmdet_proposals",
    "read_proposals",
    "write_proposals",
]

_NAMES_BEFORE = {"indexes": "ids", "scores": "objectness_logits"}


class ProposalFileError(DataError):
    """A file of proposals cannot be used. The message is one line and names the file."""


class Proposals(NamedTuple):
    """The proposals of some images; the three lists are equally long.

    Attributes:
        ids: of the images, as in the data set's records.
        boxes: (n, 4) float32 each, x1, y1, x2, y2 in pixels of the original image.
        objectness_logits: (n,) float32 each; higher is better.
    """

    ids: list[int | str]
    boxes: list[np.ndarray]
    objectness_logits: list[np.ndarray]


def write_proposals(path: str, proposals: Proposals) -> None:
    """Write a file for ``DATASETS.PROPOSAL_FILES_*``. It appears when it is complete.

    Raises:
        OSError: it cannot be written. Whatever was at ``path`` is still there then.
    """
    content = {**proposals._asdict(), "bbox_mode": BoxMode.XYXY_ABS.value}
    with atomic_open(path) as file:
        pickle.dump(content, file, protocol=4)


def read_proposals(path: str) -> Proposals:
    """Read a file of detectron2's or of :func:`write_proposals`, executing nothing in it.

    Raises:
        ProposalFileError: the file is damaged or holds something else.
    """
    content = _load(path)
    names = Proposals._fields
    if isinstance(content, dict):  # Detectron had other names, which detectron2 takes, too.
        content = {_NAMES_BEFORE.get(name, name): value for name, value in content.items()}
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in names):
        raise ProposalFileError(f"{path}: not a file of proposals, with the lists {names}")
    proposals = Proposals(*(content[k] for k in names))
    if len({len(values) for values in proposals}) > 1:
        raise ProposalFileError(f"{path}: the lists {names} must be equally long")
    seen: set[str] = set()
    for image, boxes, logits in zip(*proposals, strict=True):
        problem = _problem(image, boxes, logits)
        if problem is None and str(image) in seen:
            problem = f"holds image {image} twice"
        if problem:
            raise ProposalFileError(f"{path}: {problem}")
        seen.add(str(image))
    mode = content.get("bbox_mode", BoxMode.XYXY_ABS.value)
    if isinstance(mode, int) and mode == BoxMode.XYWH_ABS.value:
        corners = [BoxMode.convert(b, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for b in proposals.boxes]
        return proposals._replace(boxes=corners)
    if not isinstance(mode, int) or mode != BoxMode.XYXY_ABS.value:
        raise ProposalFileError(
            f"{path}: bbox_mode {mode!r} must be 0 (x1, y1, x2, y2) or 1 (x, y, width, height)"
        )
    return proposals


def _problem(image: Any, boxes: Any, logits: Any) -> str | None:
    """What is wrong with the proposals of an image."""
    if not isinstance(image, int | str | np.integer):
        return f"an image has the id of a {type(image).__name__}, not a number or a name"
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


def read_mmdet_proposals(path: str, image_ids: Sequence[int | str]) -> Proposals:
    """Read a proposal pickle of MMDetection 1 or 2, executing nothing in it.

    It holds a list with one array (n, 5) for each image: x1, y1, x2, y2 in pixels of the original
    image, and a score from 0 to 1. The images have no names in it: they come in the order in which
    the JSON lists them, as in MMDetection's data sets for testing. (detectron2 sorts them by id.)

    Args:
        path: of the file.
        image_ids: of all images of the data set, in the order of its JSON.

    Raises:
        ProposalFileError: the file is damaged, asks for something to be executed, holds something
            else, or another number of images.
    """
    content = _load(path)
    if not isinstance(content, list):
        raise ProposalFileError(
            f"{path}: holds a {type(content).__name__}, not a list with an array (n, 5) an image, "
            "as MMDetection's tools/test.py --out writes for a model of proposals"
        )
    if len(content) != len(image_ids):
        raise ProposalFileError(
            f"{path}: holds {len(content)} images, but the data set has {len(image_ids)}: "
            "proposals are told apart by their order alone, so all images must be there, also "
            "those without objects (MMDetection's test_mode)"
        )
    boxes, logits = [], []
    for i, rows in enumerate(content):
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 5:
            what = f"the shape {rows.shape}" if isinstance(rows, np.ndarray) else "no array"
            raise ProposalFileError(f"{path}: image {i} (of the list) has {what}, not (n, 5)")
        scores = rows[:, 4].astype(np.float64)
        if not np.isfinite(rows).all() or not ((scores >= 0) & (scores <= 1)).all():
            raise ProposalFileError(
                f"{path}: image {i} (of the list) has a score that is not from 0 to 1, or a number "
                "that is not finite"
            )
        boxes.append(rows[:, :4].astype(np.float32))
        tiny = np.finfo(np.float32).tiny
        logits.append(
            (np.log(scores.clip(min=tiny)) - np.log((1 - scores).clip(min=tiny))).astype(np.float32)
        )
    return Proposals(list(image_ids), boxes, logits)


def _load(path: str) -> Any:
    try:
        with open(PathManager.get_local_path(path), "rb") as file:
            return load_numpy_pickle(file)
    except CheckpointError as error:
        raise ProposalFileError(f"{path}: {error}") from error
