"""Faults of boxes, categories and areas that detectron2 can load, but that a user should know."""

from collections import Counter

import numpy as np

from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import Findings

__all__ = ["check_annotations"]

TOLERANCE = 1.0
"""Pixels by which a box may exceed its image: annotation tools round."""
SUSPICIOUS_SHARE = 0.1
"""Share of boxes beyond their image from which on another box convention is considered."""


def check_annotations(data: CocoFile, findings: Findings) -> None:
    """Add what is suspicious about images, categories, boxes and areas to ``findings``."""
    files = Counter(x["file_name"] for x in data.images)
    findings.add("file_twice", (f"{name}: {n} times" for name, n in files.items() if n > 1))
    _check_categories(data, findings)
    _check_boxes(data, findings)
    is_object = ~data.is_crowd & (data.boxes[:, 2:] > 0).all(axis=1)
    count = np.bincount(data.image_of[is_object], minlength=len(data.images))
    findings.add("image_empty", (data.images[i]["file_name"] for i in np.flatnonzero(count == 0)))


def _check_categories(data: CocoFile, findings: Findings) -> None:
    used = {x["category_id"] for x in data.annotations}
    names = {x["id"]: x["name"] for x in data.categories}
    findings.add(
        "category_unused", (f"{name} (id {key})" for key, name in names.items() if key not in used)
    )
    for name, n in Counter(names.values()).items():
        if n > 1:
            ids = ", ".join(str(key) for key, other in names.items() if other == name)
            findings.add("category_name_twice", [f"{name}: ids {ids}"])


def _check_boxes(data: CocoFile, findings: Findings) -> None:
    sizes, near = data.boxes[:, 2:], data.boxes[:, :2]
    far, limits = near + sizes, data.image_sizes[data.image_of]
    negative = (sizes < 0).any(axis=1)
    empty = ~negative & (sizes == 0).any(axis=1)
    usable = ~negative & ~empty
    outside = usable & ((far <= 0) | (near >= limits)).any(axis=1)
    excess = np.maximum(-near, far - limits).max(axis=1, initial=-np.inf)
    area = np.array([x["area"] for x in data.annotations], dtype=np.float64)
    box_area = sizes.prod(axis=1)
    cases = {
        "box_negative": negative,
        "box_empty": empty,
        "box_degenerate": usable & (sizes < 1).any(axis=1),
        "box_outside": outside,
        "box_reaches_out": usable & ~outside & (excess > TOLERANCE),
        "box_twice": _repeats(data, usable & ~data.is_crowd),
        # Polygons are rounded differently from boxes.
        "area_wrong": usable & ((area <= 0) | (area > 1.1 * box_area + 2)),
        "crowd": data.is_crowd,
    }
    if len(data.boxes) and ((data.boxes >= 0) & (data.boxes <= 1)).all() and (limits > 2).all():
        cases["box_normalized"] = np.ones(len(data.boxes), dtype=bool)
    exceeds = (far > limits + TOLERANCE).any(axis=1)
    as_corners = (sizes > near) & (sizes <= limits + TOLERANCE)
    if len(data.boxes) and exceeds.mean() > SUSPICIOUS_SHARE and as_corners.all():
        cases["box_corners"] = exceeds
    for kind, mask in cases.items():
        findings.add(kind, (data.describe(i) for i in np.flatnonzero(mask).tolist()))


def _repeats(data: CocoFile, chosen: np.ndarray) -> np.ndarray:
    """(A,) bool: chosen annotations with the image, category and box of an earlier one."""
    seen, repeats = set(), np.zeros(len(chosen), dtype=bool)
    for i in np.flatnonzero(chosen).tolist():
        annotation = data.annotations[i]
        key = annotation["image_id"], annotation["category_id"], *annotation["bbox"]
        repeats[i] = key in seen
        seen.add(key)
    return repeats
