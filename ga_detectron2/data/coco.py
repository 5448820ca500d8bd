"""COCO JSON files: one reader for registration, loading, scoring and the dataset advisor."""

import contextlib
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock
from pycocotools.coco import COCO

from ga_detectron2.atomic import atomic_open
from ga_detectron2.errors import DataError

from .coco_fields import LISTS, Entry, is_finite, is_integer, read_entries, short, whole
from .embedded import cache_root
from .findings import ERROR, Findings

__all__ = ["NO_MASK", "CocoFile", "complete_json", "read_coco_file", "refuse_errors"]

NO_MASK = "without_mask"
"""Key of an annotation whose polygons were all degenerate. detectron2 drops it with its box."""

MAX_ID = 2**53
"""Above it, pycocotools' floating-point tables confuse ids of annotations."""

_FORM = (
    "It should be an object with the lists images (id, file_name, height, width), categories "
    "(id, name) and, except for unpublished test annotations, annotations (image_id, "
    "category_id, bbox)"
)


@dataclass(frozen=True, eq=False)
class CocoFile:
    """The usable entries of a JSON: I images, A annotations.

    What detectron2 or pycocotools read, but the file lacks, is filled in where it follows from
    something else. Attributes:
        name: name of the dataset.
        json_file, image_root: local paths.
        contents: all keys of the file, with the usable entries.
        is_repaired: whether entries differ from those of the file.
    """

    name: str
    json_file: str
    image_root: str
    contents: dict[str, Any]
    is_repaired: bool

    @property
    def images(self) -> list[Entry]:
        return self.contents["images"]

    @property
    def categories(self) -> list[Entry]:
        return self.contents["categories"]

    @property
    def annotations(self) -> list[Entry]:
        """Empty for a test set whose annotations are not published."""
        return self.contents.get("annotations", [])

    @functools.cached_property
    def image_sizes(self) -> np.ndarray:
        """(I, 2) float64, width and height in pixels."""
        return np.array([[x["width"], x["height"]] for x in self.images], dtype=np.float64)

    @functools.cached_property
    def boxes(self) -> np.ndarray:
        """(A, 4) float64: x, y, width, height in pixels."""
        boxes = [x["bbox"] for x in self.annotations]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    @functools.cached_property
    def image_of(self) -> np.ndarray:
        """(A,) int64 into ``images``."""
        position = {image["id"]: i for i, image in enumerate(self.images)}
        return np.array([position[x["image_id"]] for x in self.annotations], dtype=np.int64)

    @functools.cached_property
    def is_crowd(self) -> np.ndarray:
        """(A,) bool."""
        return np.array([x["iscrowd"] for x in self.annotations], dtype=bool)

    def path_of(self, image: int) -> str:
        """Path of the image at a position."""
        return os.path.join(self.image_root, self.images[image]["file_name"])

    def describe(self, index: int) -> str:
        """An annotation in words."""
        annotation, image = self.annotations[index], self.images[self.image_of[index]]
        return f"annotation {annotation['id']} of {image['file_name']}, bbox {annotation['bbox']}"


def read_coco_file(name: str, json_file: str, image_root: str, findings: Findings) -> CocoFile:
    """Read a JSON. Entries that cannot be used are left out and added to ``findings``.

    Args:
        name: name of the dataset, for messages.
        json_file, image_root: local paths; no image is read.
        findings: receives what is wrong with the structure of the file.

    Raises:
        DataError: it is not a JSON of this form, or no image or category can be used.
    """
    where = f"dataset '{name}': {json_file} is not a"
    try:
        with open(json_file, encoding="utf-8") as file:
            contents = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} JSON file ({error})") from error
    where += " COCO detection JSON"
    if not isinstance(contents, dict):
        raise DataError(f"{where}: {short(contents)}. {_FORM}")
    for key in LISTS:
        if not isinstance(contents.get(key), list) and (key in contents or key != "annotations"):
            raise DataError(f"{where}: no list '{key}'. {_FORM}")
    read = {key: read_entries(contents[key], key, findings) for key in LISTS if key in contents}
    for key in ("images", "categories"):
        if not read[key]:
            refuse_errors(name, json_file, findings)
            raise DataError(f"{where}: '{key}' is empty. {_FORM}")
    _check_ids(read, findings)
    if "annotations" in read:
        read["annotations"] = _complete_annotations(findings=findings, **read)
    originals = {id(entry) for key in read for entry in contents[key]}
    is_repaired = any(id(entry) not in originals for key in read for entry in read[key])
    return CocoFile(name, json_file, image_root, {**contents, **read}, is_repaired)


def refuse_errors(name: str, json_file: str, findings: Findings) -> None:
    """Raise the first error among ``findings``.

    Raises:
        DataError: names the dataset, the file and the entry.
    """
    errors = [finding for finding in findings.in_order() if finding.severity == ERROR]
    if errors:
        count = findings.count(ERROR)
        more = f" ({count} errors; tools/check_dataset.py lists them)" if count > 1 else ""
        raise DataError(f"dataset '{name}': {json_file}: {errors[0].examples[0]}{more}")


def complete_json(data: CocoFile) -> str:
    """Path of a JSON that detectron2 and pycocotools take: the file itself, or a repaired copy.

    Copies are kept in the folder of the embedded dataset (``GA_DETECTRON2_CACHE``), by content.

    Raises:
        DataError: the copy cannot be written.
    """
    if not data.is_repaired:
        return data.json_file
    text = json.dumps(data.contents)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    stem = os.path.splitext(os.path.basename(data.json_file))[0]
    path = os.path.join(cache_root(), "annotations", f"{stem}-{digest}.json")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with file_lock(path):
            if not os.path.isfile(path):
                with atomic_open(path, "w", sync=False) as file:
                    file.write(text)
    except OSError as error:
        raise DataError(
            f"dataset '{data.name}': the completed copy of {data.json_file} cannot be written "
            f"({error}); set GA_DETECTRON2_CACHE to a writable folder"
        ) from error
    return path


def _check_ids(read: dict[str, list[Entry]], findings: Findings) -> None:
    first = read["images"][0]["id"]
    for i, image in enumerate(read["images"]):
        if isinstance(image["id"], str) != isinstance(first, str):
            fault = f"has the id {image['id']!r}, but images[0] {first!r}"
            findings.add(
                "image_malformed", [f"images[{i}] {fault}; all must be integers, or all strings"]
            )
    for key, what in LISTS.items():
        ids = (x.get("id") for x in read.get(key, []))
        counts = Counter(x for x in ids if x is not None and isinstance(x, Hashable))
        findings.add(
            f"{what}_id_twice",
            (f"{what} id {x!r} is used {n} times in {key}" for x, n in counts.items() if n > 1),
        )


def _complete_annotations(
    images: list[Entry], categories: list[Entry], annotations: list[Entry], findings: Findings
) -> list[Entry]:
    """Annotations of declared images and categories, with what only scoring reads filled in."""
    coco = COCO()
    coco.imgs = {x["id"]: x for x in images}
    declared = {x["id"] for x in categories}
    num_keypoints = 0
    if any(x.get("keypoints") for x in annotations):
        num_keypoints = max(len(x.get("keypoints") or []) for x in categories)
    complete = []
    for annotation in annotations:
        who = f"annotation {short(annotation.get('id'))}"
        image, category = annotation["image_id"], annotation["category_id"]
        if category not in declared:
            reason = f"has the category_id {category!r}, which is not among the categories"
            findings.add("category_undeclared", [f"{who} {reason}"])
        elif image not in coco.imgs:
            reason = f"has the image_id {image!r}, which is not among the images"
            findings.add("annotation_without_image", [f"{who} {reason}"])
        else:
            complete.append(_complete(annotation, coco, num_keypoints, who, findings))
    ids = [whole(x.get("id")) for x in complete]
    unusable = [i for i, x in enumerate(ids) if not is_integer(x, 1, MAX_ID)]
    if not unusable:
        return complete
    findings.add(
        "annotation_id_unusable",
        (f"annotations[{i}] has the id {short(complete[i].get('id'))}" for i in unusable),
    )
    return [{**x, "id": i} for i, x in enumerate(complete, 1)]


def _complete(
    annotation: Entry, coco: COCO, num_keypoints: int, who: str, findings: Findings
) -> Entry:
    repaired: Entry = {}
    if annotation.get("ignore"):
        repaired = {"iscrowd": 1, "ignore": 0}
        findings.add("ignore_flag", [f"{who}: ignore is set"])
    mask = annotation.get("segmentation")
    if isinstance(mask, list) and mask and not any(map(_is_polygon, mask)):
        repaired |= {"segmentation": [], NO_MASK: 1}
        findings.add("polygon_degenerate", [who])
    filled: Entry = {}
    if "iscrowd" not in repaired and not is_integer(annotation.get("iscrowd")):
        filled["iscrowd"] = 0
    if not is_finite(annotation.get("area")):
        filled["area"] = _area(annotation, coco)
    if num_keypoints and not annotation.get("keypoints"):
        filled["keypoints"] = [0] * 3 * num_keypoints
    points = filled.get("keypoints") or annotation.get("keypoints") or []
    if points and not is_integer(whole(annotation.get("num_keypoints"))):
        filled["num_keypoints"] = sum(visibility > 0 for visibility in points[2::3])
    if filled:
        findings.add("field_filled", [f"{who}: {', '.join(filled)}"])
    return {**annotation, **repaired, **filled} if repaired or filled else annotation


def _area(annotation: Entry, coco: COCO) -> float:
    """Area in pixels of the mask if there is one, otherwise of the box."""
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        mask = [x for x in mask if _is_polygon(x)]
    # Mask errors are reported by the code that loads masks.
    with contextlib.suppress(Exception):
        return float(mask_util.area(coco.annToRLE({**annotation, "segmentation": mask})))
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _is_polygon(points: list[Any]) -> bool:
    return len(points) >= 6 and len(points) % 2 == 0
