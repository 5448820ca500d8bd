"""COCO JSON files: one reader for registration, loading, scoring and the dataset advisor."""

import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock

from ga_detectron2.atomic import atomic_open
from ga_detectron2.errors import DataError

from .embedded import cache_root
from .findings import ERROR, Findings

__all__ = ["NO_MASK", "CocoFile", "coco_subset", "complete_json", "read_coco_file", "refuse_errors"]

NO_MASK = "without_mask"
"""Key of an annotation whose polygons were all degenerate. detectron2 drops it with its box."""

MAX_ID = 2**53
"""Above it, pycocotools' floating-point tables confuse ids of annotations."""

Entry = dict[str, Any]


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
    where = f"dataset '{name}': {json_file}"
    try:
        with open(json_file, encoding="utf-8") as file:
            contents = json.load(file)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not a JSON file ({error})") from error
    form = (
        "It should be an object with the lists images (id, file_name, height, width), categories "
        "(id, name) and, except for unpublished test annotations, annotations (image_id, "
        "category_id, bbox)"
    )
    if not isinstance(contents, dict):
        raise DataError(f"{where} is not a COCO detection JSON: {_short(contents)}. {form}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(contents.get(key), list) and (key in contents or key != "annotations"):
            raise DataError(f"{where} is not a COCO detection JSON: no list '{key}'. {form}")

    read: dict[str, list[Entry]] = {}
    is_repaired = False
    for key, reader in _READERS.items():
        if key in contents:
            read[key], changed = _read_entries(contents[key], key, reader, findings)
            is_repaired |= changed
    for key in ("images", "categories"):
        if not read[key]:
            refuse_errors(name, json_file, findings)
            raise DataError(f"{where} is not a COCO detection JSON: '{key}' is empty. {form}")
    _check_ids(read, findings)
    if "annotations" in read:
        read["annotations"] = _with_references(read, findings)
        is_repaired |= _fill_in(read, findings)
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


def coco_subset(json_in: str, json_out: str, image_ids: Iterable[int]) -> None:
    """Write a COCO JSON with some images, their annotations, and all categories.

    Raises:
        ValueError: no image is named, or ``json_in`` has no image with one of the ids.
    """
    wanted = set(image_ids)
    if not wanted:
        raise ValueError("coco_subset needs at least one image id")
    with open(json_in, encoding="utf-8") as file:
        contents = json.load(file)
    missing = sorted(wanted - {image["id"] for image in contents["images"]})
    if missing:
        raise ValueError(f"{json_in} has no image with id {', '.join(map(str, missing))}")
    contents["images"] = [image for image in contents["images"] if image["id"] in wanted]
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] in wanted]
    os.makedirs(os.path.dirname(os.path.abspath(json_out)), exist_ok=True)
    with open(json_out, "w", encoding="utf-8") as file:
        json.dump(contents, file)


# ------------------------------------------------------------------------------- single entries


class _EntryError(Exception):
    """An entry that is left out. Arguments: the kind of finding and the reason."""


def _read_entries(
    entries: list[Any], key: str, reader: Callable[[Entry], Entry], findings: Findings
) -> tuple[list[Entry], bool]:
    """The usable entries with repaired fields, and whether any field was repaired."""
    usable, is_repaired = [], False
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _EntryError(
                    f"{_SINGULAR[key]}_malformed", f"is {_short(entry)}, not an object"
                )
            fields = reader(entry)
        except _EntryError as error:
            kind, reason = error.args
            findings.add(kind, [f"{key}[{i}] {reason}"])
            continue
        usable.append({**entry, **fields} if fields else entry)
        is_repaired |= bool(fields)
    return usable, is_repaired


def _read_image(entry: Entry) -> Entry:
    kind = "image_malformed"
    fields: Entry = {"id": _identity(entry, "id", kind)}
    if isinstance(fields["id"], int) and not -(2**63) <= fields["id"] < 2**63:
        raise _EntryError(kind, f"has the id {entry['id']}, which exceeds 64 bits")
    _need_text(entry, "file_name", kind)
    for side in ("height", "width"):
        value = fields[side] = _whole(_need(entry, side, kind))
        if value is None or value < 1:
            raise _EntryError(
                kind, f"has the {side} {_short(entry[side])}, which is not a positive integer"
            )
    return _changed(entry, fields)


def _read_category(entry: Entry) -> Entry:
    kind = "category_malformed"
    number = _whole(_need(entry, "id", kind))
    if number is None:
        raise _EntryError(kind, f"has the id {_short(entry['id'])}, which is not an integer")
    _need_text(entry, "name", kind)
    points = entry.get("keypoints") or []
    if not isinstance(points, list) or not all(isinstance(x, str) for x in points):
        raise _EntryError(kind, "has keypoints that are not a list of names")
    return _changed(entry, {"id": number})


def _read_annotation(entry: Entry) -> Entry:
    kind = "annotation_malformed"
    fields: Entry = {key: _identity(entry, key, kind) for key in ("image_id", "category_id")}
    box = _need(entry, "bbox", kind)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise _EntryError(
            "box_malformed", f"has the bbox {_short(box)}, which is not four finite numbers"
        )
    if entry.get("iscrowd") is not None:
        fields["iscrowd"] = _whole(entry["iscrowd"])
        if fields["iscrowd"] not in (0, 1):
            raise _EntryError(kind, f"has iscrowd {_short(entry['iscrowd'])}, which is not 0 or 1")
    segmentation = entry.get("segmentation")
    if not _is_segmentation(segmentation):
        raise _EntryError(kind, "has a segmentation that is neither polygons nor an RLE")
    if segmentation and isinstance(segmentation, list) and not any(map(_is_polygon, segmentation)):
        fields |= {"segmentation": [], NO_MASK: 1}
    points = entry.get("keypoints") or []
    if not isinstance(points, list) or len(points) % 3 or not all(map(_is_finite, points)):
        raise _EntryError(kind, "has keypoints that are not a list of x, y, visibility")
    return _changed(entry, fields)


_READERS = {"images": _read_image, "categories": _read_category, "annotations": _read_annotation}
_SINGULAR = {"images": "image", "categories": "category", "annotations": "annotation"}


def _changed(entry: Entry, fields: Entry) -> Entry:
    """The fields whose value or type differs from that of ``entry``: 64.0 becomes 64."""
    return {
        key: value
        for key, value in fields.items()
        if key not in entry or type(entry[key]) is not type(value) or entry[key] != value
    }


def _need(entry: Entry, key: str, kind: str) -> Any:
    if key not in entry:
        raise _EntryError(kind, f"has no '{key}'")
    return entry[key]


def _need_text(entry: Entry, key: str, kind: str) -> None:
    value = _need(entry, key, kind)
    if not isinstance(value, str) or not value:
        raise _EntryError(kind, f"has the {key} {_short(value)}, which is not a string")


def _identity(entry: Entry, key: str, kind: str) -> int | str:
    value = _need(entry, key, kind)
    if isinstance(value, str):
        return value
    number = _whole(value)
    if number is None:
        raise _EntryError(
            kind, f"has the {key} {_short(value)}, which is not an integer or a string"
        )
    return number


def _whole(value: Any) -> int | None:
    """An int, or a float such as 64.0 (tables written by pandas), as an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_finite(value: Any) -> bool:
    # JSON's integers are unbounded, but floats are not.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def _is_segmentation(value: Any) -> bool:
    """Whether detectron2 can load it. The coordinates of polygons are not examined."""
    if not isinstance(value, dict):
        return not value or (isinstance(value, list) and all(isinstance(x, list) for x in value))
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return False
    if not all(isinstance(x, int) and 1 <= x < 1 << 31 for x in size):
        return False
    return isinstance(counts, str) or (
        isinstance(counts, list) and all(isinstance(x, int) and 0 <= x < 1 << 32 for x in counts)
    )


def _is_polygon(points: list[Any]) -> bool:
    return len(points) >= 6 and len(points) % 2 == 0


# ------------------------------------------------------------------------------ entries together


def _check_ids(read: dict[str, list[Entry]], findings: Findings) -> None:
    first = read["images"][0]["id"]
    findings.add(
        "image_malformed",
        (
            f"images[{i}] has the id {image['id']!r}, but images[0] {first!r}; all must be "
            "integers, or all strings"
            for i, image in enumerate(read["images"])
            if isinstance(image["id"], str) != isinstance(first, str)
        ),
    )
    for key, what in _SINGULAR.items():
        ids: Iterable[Any] = (x.get("id") for x in read.get(key, []))
        ids = (x for x in ids if x is not None and isinstance(x, Hashable))
        repeated = [(x, n) for x, n in Counter(ids).items() if n > 1]
        findings.add(
            f"{what}_id_twice", (f"{what} id {x!r} is used {n} times in {key}" for x, n in repeated)
        )


def _with_references(read: dict[str, list[Entry]], findings: Findings) -> list[Entry]:
    """The annotations whose image and category are declared."""
    images, categories = ({x["id"] for x in read[key]} for key in ("images", "categories"))
    usable = []
    for annotation in read["annotations"]:
        who = f"annotation {_short(annotation.get('id'))} is"
        if annotation["category_id"] not in categories:
            category = annotation["category_id"]
            findings.add(
                "category_undeclared",
                [f"{who} of category {category!r}, which is not among the categories"],
            )
        elif annotation["image_id"] not in images:
            image = annotation["image_id"]
            findings.add(
                "annotation_without_image",
                [f"{who} of image {image!r}, which is not among the images"],
            )
        else:
            usable.append(annotation)
    return usable


def _fill_in(read: dict[str, list[Entry]], findings: Findings) -> bool:
    """Complete the annotations with what scoring reads; returns whether any was changed."""
    annotations = read["annotations"]
    sizes = {x["id"]: (x["height"], x["width"]) for x in read["images"]}
    num_keypoints = 0
    if any(x.get("keypoints") for x in annotations):
        num_keypoints = max(len(x.get("keypoints") or []) for x in read["categories"])
    is_repaired = False
    for i, annotation in enumerate(annotations):
        fields: Entry = {}
        if annotation.get("ignore"):
            fields |= {"iscrowd": 1, "ignore": 0}
            findings.add("ignore_flag", [f"annotation {annotation.get('id')!r}: ignore is set"])
        filled: Entry = {}
        if annotation.get("iscrowd") is None and "iscrowd" not in fields:
            filled["iscrowd"] = 0
        if not _is_finite(annotation.get("area")):
            filled["area"] = _area(annotation, sizes[annotation["image_id"]])
        if num_keypoints and not annotation.get("keypoints"):
            filled["keypoints"] = [0] * 3 * num_keypoints
        points = filled.get("keypoints") or annotation.get("keypoints") or []
        if points and _whole(annotation.get("num_keypoints")) is None:
            filled["num_keypoints"] = sum(v > 0 for v in points[2::3])
        if filled:
            case = f"annotation {annotation.get('id')!r}: {', '.join(filled)}"
            findings.add("field_filled", [case])
        if annotation.get(NO_MASK):
            findings.add("polygon_degenerate", [f"annotation {annotation.get('id')!r}"])
        if fields or filled:
            annotations[i] = {**annotation, **fields, **filled}
            is_repaired = True
    ids = [_whole(x.get("id")) for x in annotations]
    unusable = [i for i, x in enumerate(ids) if x is None or not 0 < x < MAX_ID]
    if unusable:
        findings.add(
            "annotation_id_unusable",
            (f"annotations[{i}] has the id {_short(annotations[i].get('id'))}" for i in unusable),
        )
        read["annotations"] = [{**x, "id": i + 1} for i, x in enumerate(annotations)]
        is_repaired = True
    return is_repaired


def _area(annotation: Entry, size: tuple[int, int]) -> float:
    """Area in pixels of the mask if there is one, otherwise of the box."""
    mask = annotation.get("segmentation")
    try:
        if isinstance(mask, list):
            mask = mask_util.frPyObjects([x for x in mask if _is_polygon(x)], *size)
            return float(mask_util.area(mask_util.merge(mask)))
        if mask and isinstance(mask["counts"], list):
            mask = mask_util.frPyObjects(mask, *mask["size"])
        if mask:
            return float(mask_util.area(mask))
    except Exception:  # Mask errors are reported by the code that loads masks.
        pass
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
