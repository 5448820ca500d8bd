"""A COCO detection JSON that may have any fault: what of it can be used, as lists and arrays."""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..register import parse_dataset_argument
from .findings import Findings

__all__ = ["CocoFile", "find_dataset", "is_box", "read_coco_file"]


class CocoFile(NamedTuple):
    """The entries that have all that others refer to. I images, A annotations.

    Attributes:
        name: of the data set.
        json_file, image_root: local paths.
        images, annotations, categories: as in the file.
        image_sizes: (I, 2) float64, width and height as the file says, in pixels.
        boxes: (A, 4) float64, x, y, width and height in pixels; NaN where ``bbox`` has not four
            numbers.
        image_of: (A,) int64 into ``images``, -1 for an image that is not there; of several images
            of one id the last, as in pycocotools.
        is_crowd: (A,) bool.
        is_declared: (A,) bool: whether the annotation's category is declared.
    """

    name: str
    json_file: str
    image_root: str
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_sizes: np.ndarray
    boxes: np.ndarray
    image_of: np.ndarray
    is_crowd: np.ndarray
    is_declared: np.ndarray

    def path_of(self, image: int) -> str:
        """Of the file of an image, by its position."""
        return os.path.join(self.image_root, self.images[image]["file_name"])

    def describe(self, index: int) -> str:
        """An annotation in words."""
        annotation, image = self.annotations[index], self.image_of[index]
        where = (
            f"image {annotation['image_id']!r}" if image < 0 else self.images[image]["file_name"]
        )
        return f"annotation {annotation['id']!r} of {where}, bbox {_short(annotation['bbox'])}"


def find_dataset(argument: str) -> tuple[str, str, str]:
    """Name, JSON and image folder of a data set, of which nothing is read.

    Args:
        argument: the name of a registered data set, ``ANNOTATIONS.json:IMAGE_FOLDER``, or
            ``NAME=ANNOTATIONS.json:IMAGE_FOLDER`` as for ``--dataset`` of the other tools.

    Raises:
        ValueError: there is no such data set, or it has no JSON.
        FileNotFoundError: the JSON or the folder is missing.
    """
    if argument in DatasetCatalog:
        metadata = MetadataCatalog.get(argument)
        json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
        if not json_file or image_root is None:
            raise ValueError(
                f"data set '{argument}' is not from a COCO JSON: only such can be checked"
            )
        name = argument
        hint = "set DETECTRON2_DATASETS to the folder of detectron2's data sets"
        json_file = PathManager.get_local_path(json_file)
        image_root = PathManager.get_local_path(image_root)
    elif ":" not in argument:
        raise ValueError(
            f"there is no data set '{argument}': give the name of a registered one, such as "
            "ga_shapes_train, or ANNOTATIONS.json:IMAGE_FOLDER"
        )
    else:
        has_name = "=" in argument.partition(":")[0]
        name, json_file, image_root = parse_dataset_argument(
            argument if has_name else f"dataset={argument}"
        )
        if not has_name:
            name = os.path.splitext(os.path.basename(json_file))[0]
        hint = "it should read ANNOTATIONS.json:IMAGE_FOLDER"
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"data set '{name}': there is no file {json_file}; {hint}")
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"data set '{name}': there is no folder {image_root}; {hint}")
    return name, json_file, image_root


def read_coco_file(name: str, json_file: str, image_root: str, findings: Findings) -> CocoFile:
    """Read a JSON; entries that lack what they need are reported and left out.

    Raises:
        ValueError: it is not a JSON, or not one with lists of images, annotations and categories.
    """
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{json_file} is not a JSON file ({error})") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"{json_file} is not a COCO detection JSON: it should be an object with the lists "
                f"images, annotations and categories, and has no list '{key}'"
            )
    images = _complete(content["images"], "image", findings)
    annotations = _complete(content["annotations"], "annotation", findings)
    categories = _complete(content["categories"], "category", findings)
    if not images:
        raise ValueError(f"{json_file} holds no image with an id, a file_name and a size")

    position = {image["id"]: i for i, image in enumerate(images)}
    declared = {category["id"] for category in categories}
    boxes = [x["bbox"] if is_box(x["bbox"]) else [np.nan] * 4 for x in annotations]
    return CocoFile(
        name,
        json_file,
        image_root,
        images,
        annotations,
        categories,
        np.array([[x["width"], x["height"]] for x in images], dtype=np.float64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([position.get(x["image_id"], -1) for x in annotations], dtype=np.int64),
        np.array([x.get("iscrowd") not in (None, 0) for x in annotations], dtype=bool),
        np.array([x["category_id"] in declared for x in annotations], dtype=bool),
    )


_NEEDED = {
    "image": ("id", "file_name", "height", "width"),
    "annotation": ("id", "image_id", "category_id", "bbox"),
    "category": ("id", "name"),
}


def _complete(entries: Sequence[Any], what: str, findings: Findings) -> list[dict[str, Any]]:
    """The entries that have what they need; the others are findings."""
    reasons = [_fault(entry, what) for entry in entries]
    plural = "categories" if what == "category" else f"{what}s"
    findings.add(
        f"{what}_incomplete",
        (f"{plural}[{i}] {reason}" for i, reason in enumerate(reasons) if reason),
    )
    return [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]


def _fault(entry: Any, what: str) -> str | None:
    if not isinstance(entry, dict):
        return f"is {_short(entry)}, not an object"
    for key in _NEEDED[what]:
        if key not in entry:
            return f"has no '{key}'"
        value = entry[key]
        if key.endswith("id") and not isinstance(value, int | str):
            return f"has the {key} {_short(value)}, which should be a number"
        if key in ("height", "width") and not (isinstance(value, int) and value > 0):
            return f"has the {key} {_short(value)}, which should be a whole number above 0"
        if key in ("file_name", "name") and not isinstance(value, str):
            return f"has the {key} {_short(value)}, which should be a text"
    return None


def is_box(value: Any) -> bool:
    """Whether a ``bbox`` is a list of four numbers, whatever these are."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
