"""Faults of ids, categories and boxes, which need no image file."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import numpy as np

from .coco_file import CocoFile, is_box
from .findings import Findings

__all__ = ["check_annotations"]

TOLERANCE = 1.0
"""Pixels that a box may reach out of its image by: annotation tools round."""
SUSPICIOUS_SHARE = 0.1
"""Of boxes that reach out of their image, from which on all are asked for another convention."""


def check_annotations(data: CocoFile, findings: Findings) -> None:
    """Add what is wrong with ids, categories and boxes to ``findings``."""
    _check_ids(data, findings)
    _check_categories(data, findings)
    _check_boxes(data, findings)
    _check_convention(data, findings)
    _check_fields(data, findings)
    _check_empty_images(data, findings)


def _check_ids(data: CocoFile, findings: Findings) -> None:
    for what, entries in (
        ("image", data.images),
        ("annotation", data.annotations),
        ("category", data.categories),
    ):
        findings.add(
            f"{what}_id_twice",
            (f"{what} id {x!r}: {n} times" for x, n in _repeated(e["id"] for e in entries)),
        )
    files = _repeated(x["file_name"] for x in data.images)
    findings.add("file_twice", (f"{name}: {n} times" for name, n in files))
    findings.add(
        "annotation_without_image", map(data.describe, np.flatnonzero(data.image_of < 0).tolist())
    )


def _check_categories(data: CocoFile, findings: Findings) -> None:
    findings.add(
        "category_undeclared",
        (
            f"{data.describe(i)}: category {data.annotations[i]['category_id']!r}"
            for i in np.flatnonzero(~data.is_declared)
        ),
    )
    used = {x["category_id"] for x in data.annotations}
    unused = {x["id"]: x["name"] for x in data.categories if x["id"] not in used}
    findings.add("category_unused", (f"{name} (id {key!r})" for key, name in unused.items()))
    # Of an id that is there twice the names are the same fault again.
    names = {x["id"]: x["name"] for x in data.categories}
    for name, _ in _repeated(names.values()):
        ids = [repr(key) for key, other in names.items() if other == name]
        findings.add("category_name_twice", [f"{name}: ids {', '.join(ids)}"])


def _check_boxes(data: CocoFile, findings: Findings) -> None:
    boxes = data.boxes
    malformed = np.array([not is_box(x["bbox"]) for x in data.annotations], dtype=bool)
    finite = np.isfinite(boxes).all(axis=1)
    sizes = np.where(finite[:, None], boxes[:, 2:], 1)
    negative = (sizes < 0).any(axis=1)
    empty = ~negative & (sizes == 0).any(axis=1)
    usable = finite & ~negative & ~empty
    near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    limits = _limits(data)
    known = usable & (data.image_of >= 0)
    with np.errstate(invalid="ignore"):
        outside = known & ((far <= 0) | (near >= limits)).any(axis=1)
        reaches = np.maximum(-near, far - limits).max(axis=1, initial=-np.inf)
    cases = {
        "box_malformed": malformed,
        "box_not_finite": ~finite & ~malformed,
        "box_negative": negative,
        "box_empty": empty,
        "box_degenerate": usable & (sizes < 1).any(axis=1),
        "box_outside": outside,
        "box_reaches_out": known & ~outside & (reaches > TOLERANCE),
        "box_twice": _repeats(data, usable),
        "crowd": data.is_crowd,
    }
    for kind, mask in cases.items():
        findings.add(kind, map(data.describe, np.flatnonzero(mask).tolist()))


def _check_convention(data: CocoFile, findings: Findings) -> None:
    """Boxes that make no sense as x, y, width, height, but do in another common convention."""
    known = (data.image_of >= 0) & np.isfinite(data.boxes).all(axis=1)
    boxes, limits = data.boxes[known], _limits(data)[known]
    if not len(boxes):
        return
    if (boxes >= 0).all() and (boxes <= 1).all() and (limits > 2).all():
        findings.add("box_normalized", map(data.describe, np.flatnonzero(known).tolist()))
        return
    reaching = (boxes[:, :2] + boxes[:, 2:] > limits + TOLERANCE).any(axis=1)
    as_corners = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + TOLERANCE)
    if reaching.mean() > SUSPICIOUS_SHARE and as_corners.all():
        findings.add("box_corners", map(data.describe, np.flatnonzero(known)[reaching].tolist()))


def _check_fields(data: CocoFile, findings: Findings) -> None:
    box_area = data.boxes[:, 2] * data.boxes[:, 3]
    reasons: dict[str, Callable[[int, dict[str, Any]], str | None]] = {
        "not_scorable": lambda _, x: _scoring_fault(x),
        "area_wrong": lambda i, x: _area_fault(x, float(box_area[i])),
        "ignore_flag": lambda _, x: "ignore is set" if x.get("ignore", 0) else None,
        "polygon_invalid": lambda _, x: _polygon_fault(x),
    }
    for kind, reason in reasons.items():
        found = ((i, reason(i, x)) for i, x in enumerate(data.annotations))
        findings.add(kind, (f"{data.describe(i)}: {text}" for i, text in found if text))


def _check_empty_images(data: CocoFile, findings: Findings) -> None:
    sizes = data.boxes[:, 2:]
    with np.errstate(invalid="ignore"):
        is_object = (data.image_of >= 0) & ~data.is_crowd & (sizes > 0).all(axis=1)
    count = np.bincount(data.image_of[is_object], minlength=len(data.images))
    findings.add(
        "image_empty", (data.images[i]["file_name"] for i in np.flatnonzero(count == 0).tolist())
    )


def _limits(data: CocoFile) -> np.ndarray:
    """(A, 2) width and height of the image of each annotation; meaningless where it has none."""
    return data.image_sizes[data.image_of]


def _repeats(data: CocoFile, usable: np.ndarray) -> np.ndarray:
    """(A,) bool: annotations that have the image, category and box of an earlier one."""
    category_ids = {x: i for i, x in enumerate({x["category_id"] for x in data.annotations})}
    categories = [category_ids[x["category_id"]] for x in data.annotations]
    index = np.flatnonzero(usable & (data.image_of >= 0) & ~data.is_crowd)
    rows = np.column_stack([data.image_of, np.array(categories, dtype=np.int64), data.boxes])
    _, first = np.unique(rows[index], axis=0, return_index=True)
    repeats = np.zeros(len(rows), dtype=bool)
    repeats[np.delete(index, first)] = True
    return repeats


def _repeated(values: Iterable[Hashable]) -> list[tuple[Any, int]]:
    return [(value, n) for value, n in Counter(values).items() if n > 1]


def _scoring_fault(annotation: dict[str, Any]) -> str | None:
    area = annotation.get("area")
    if not isinstance(area, int | float):
        return "no area" if area is None else f"area {area!r}"
    if annotation.get("iscrowd") not in (0, 1):
        crowd = annotation.get("iscrowd")
        return "no iscrowd" if crowd is None else f"iscrowd {crowd!r}"
    return None


def _area_fault(annotation: dict[str, Any], box_area: float) -> str | None:
    area = annotation.get("area")
    if not isinstance(area, int | float) or not box_area > 0:
        return None  # Other faults.
    # Polygons are rounded otherwise than boxes.
    if area > 0 and area <= 1.1 * box_area + 2:
        return None
    return f"area {area:g}, of the box {box_area:g}"


def _polygon_fault(annotation: dict[str, Any]) -> str | None:
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        return None
    if any(isinstance(x, list) and len(x) >= 6 and len(x) % 2 == 0 for x in polygons):
        return None
    return "no polygon of three points or more"
