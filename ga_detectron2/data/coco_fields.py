"""Fields of COCO JSON files: which values can be used, entry by entry."""

import json
import sys
from collections.abc import Callable
from typing import Any

from .findings import Findings

__all__ = ["LISTS", "Entry", "is_finite", "is_integer", "read_entries", "short", "whole"]

Entry = dict[str, Any]

LISTS = {"images": "image", "categories": "category", "annotations": "annotation"}
"""Lists of a file, and what one of their entries is called."""


def whole(value: Any) -> Any:
    """An integer for a float such as 64.0 (tables written by pandas), any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_integer(value: Any, low: float = float("-inf"), end: float = float("inf")) -> bool:
    """Whether a value is an integer from ``low`` to below ``end``."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < end


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number. JSON's integers are unbounded, but floats are not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or is_integer(value)


def _is_list(value: Any, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_item, value))


def _is_segmentation(value: Any) -> bool:
    """Polygons, whose coordinates are not examined, or an RLE that detectron2 can load."""
    if not isinstance(value, dict):
        return _is_list(value, lambda x: isinstance(x, list))
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return False
    is_run_length = isinstance(counts, str) or _is_list(counts, lambda x: is_integer(x, 0, 1 << 32))
    return is_run_length and _is_list(size, lambda x: is_integer(x, 1, 1 << 31))


_FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {
        "id": (
            lambda x: isinstance(x, str) or is_integer(x, -(2**63), 2**63),
            "an integer of 64 bits or a string",
        ),
        "file_name": (_is_text, "a string"),
        "height": (lambda x: is_integer(x, 1), "a positive integer"),
        "width": (lambda x: is_integer(x, 1), "a positive integer"),
    },
    "categories": {
        "id": (is_integer, "an integer"),
        "name": (_is_text, "a string"),
        "keypoints": (lambda x: _is_list(x, lambda y: isinstance(y, str)), "a list of names"),
    },
    "annotations": {
        "image_id": (_is_id, "an integer or a string"),
        "category_id": (_is_id, "an integer or a string"),
        "bbox": (lambda x: _is_list(x, is_finite) and len(x) == 4, "four finite numbers"),
        "iscrowd": (lambda x: is_integer(x, 0, 2), "0 or 1"),
        "ignore": (lambda x: isinstance(x, bool) or is_integer(x, 0, 2), "0 or 1"),
        "segmentation": (_is_segmentation, "a list of polygons or an RLE"),
        "keypoints": (
            lambda x: _is_list(x, is_finite) and len(x) % 3 == 0,
            "a list of x, y, visibility",
        ),
    },
}
"""By list and field: a test of the value, and what it should be."""
_OPTIONAL = ("iscrowd", "ignore", "segmentation", "keypoints")


class _UnusableEntryError(Exception):
    """Arguments: the field to blame and what is wrong with the entry."""


def read_entries(entries: list[Any], key: str, findings: Findings) -> list[Entry]:
    """The usable entries of a list: those of the file, or copies in which 64.0 has become 64.

    Args:
        entries: list of the file.
        key: its key in the file.
        findings: receives the entries that cannot be used.
    """
    usable = []
    for i, entry in enumerate(entries):
        try:
            usable.append(_read_entry(entry, key))
        except _UnusableEntryError as error:
            field, fault = error.args
            kind = "box" if field == "bbox" else LISTS[key]
            findings.add(f"{kind}_malformed", [f"{key}[{i}] {fault}"])
    return usable


def _read_entry(entry: Any, key: str) -> Entry:
    if not isinstance(entry, dict):
        raise _UnusableEntryError("", f"is {short(entry)}, not an object")
    repaired: Entry = {}
    for field, (is_right, wanted) in _FIELDS[key].items():
        value = entry.get(field)
        if field in _OPTIONAL and value in (None, "", [], {}):
            continue
        if field not in entry:
            raise _UnusableEntryError(field, f"has no '{field}'")
        if not is_right(whole(value)):
            fault = f"has the {field} {short(value)}, which is not {wanted}"
            raise _UnusableEntryError(field, fault)
        if whole(value) is not value:
            repaired[field] = whole(value)
    return {**entry, **repaired} if repaired else entry


def short(value: Any) -> str:
    """A value in JSON, shortened to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
