"""Kinds of faults in a dataset, their severities, and the cases that were found."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ERROR", "KINDS", "NOTE", "WARNING", "Finding", "Findings"]

ERROR, WARNING, NOTE = "error", "warning", "note"

MAX_EXAMPLES = 20
"""Cases of a kind that are kept in words; the others are only counted."""

KINDS = {
    # Errors: training or scoring would stop, or the model would learn something wrong.
    "image_malformed": (ERROR, "images without a valid id, file_name, height or width"),
    "category_malformed": (ERROR, "categories without a valid id or name"),
    "annotation_malformed": (ERROR, "annotations with a missing or invalid field"),
    "box_malformed": (ERROR, "boxes that are not four finite numbers"),
    "category_undeclared": (ERROR, "annotations of a category that is not declared"),
    "image_id_twice": (ERROR, "image ids that are used more than once"),
    "annotation_id_twice": (ERROR, "annotation ids that are used more than once"),
    "category_id_twice": (ERROR, "category ids that are used more than once"),
    "image_missing": (ERROR, "image files that do not exist"),
    "image_unreadable": (ERROR, "image files that cannot be decoded: training stops at them"),
    "image_size_differs": (
        ERROR,
        "images of another size than the JSON says: training stops at them",
    ),
    "box_negative": (ERROR, "boxes of negative width or height (bbox is x, y, w, h): dropped"),
    "box_outside": (ERROR, "boxes outside of their image: dropped"),
    "box_corners": (ERROR, "boxes that look like x1, y1, x2, y2; COCO's are x, y, width, height"),
    "box_normalized": (ERROR, "boxes that look relative to the image size; COCO's are in pixels"),
    # Warnings: something is lost, or is likely a mistake.
    "annotation_without_image": (WARNING, "annotations of an image that is not in the file: lost"),
    "file_twice": (WARNING, "image files that several images name"),
    "category_unused": (WARNING, "categories without an annotation: never learned, AP is NaN"),
    "category_name_twice": (WARNING, "names that several categories share"),
    "ignore_flag": (WARNING, 'annotations with "ignore" set: treated as crowds'),
    "box_empty": (WARNING, "boxes of zero width or height: dropped in training"),
    "box_degenerate": (WARNING, "boxes thinner than a pixel"),
    "box_reaches_out": (
        WARNING,
        "boxes that exceed their image by over a pixel: clipped in training, not in scoring",
    ),
    "box_twice": (WARNING, "annotations with the image, category and box of another"),
    "area_wrong": (
        WARNING,
        "areas that are not positive or exceed the box: AP by object size is off",
    ),
    "polygon_degenerate": (
        WARNING,
        "annotations without a polygon of three points: without a mask, the box counts",
    ),
    # Notes: nothing to repair.
    "field_filled": (NOTE, "annotations without area, iscrowd or num_keypoints: filled in"),
    "annotation_id_unusable": (
        NOTE,
        "annotation ids that pycocotools cannot match (such as 0): renumbered for scoring",
    ),
    "crowd": (NOTE, "crowds: not trained on, and neither right nor wrong in scoring"),
    "image_empty": (
        NOTE,
        "images without an object: left out of training unless "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
    ),
}
"""Severity and description of each kind, the worst first."""


@dataclass
class Finding:
    """All cases of one kind. Attributes: examples: the first ones, in words."""

    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def severity(self) -> str:
        return KINDS[self.kind][0]

    @property
    def text(self) -> str:
        return KINDS[self.kind][1]

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "what": self.text,
            "examples": self.examples,
        }


class Findings:
    """The cases found so far, by kind."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Finding] = {}

    def add(self, kind: str, cases: Iterable[str]) -> None:
        """Add cases of one of ``KINDS``, each in words."""
        assert kind in KINDS
        for case in cases:
            finding = self._by_kind.setdefault(kind, Finding(kind))
            finding.count += 1
            if len(finding.examples) < MAX_EXAMPLES:
                finding.examples.append(case)

    def __getitem__(self, kind: str) -> Finding:
        """The finding of a kind, perhaps with no cases."""
        assert kind in KINDS
        return self._by_kind.get(kind, Finding(kind))

    def in_order(self) -> list[Finding]:
        """The findings with at least one case, the worst first."""
        return [self._by_kind[kind] for kind in KINDS if kind in self._by_kind]

    def count(self, severity: str) -> int:
        """Number of cases of a severity."""
        return sum(x.count for x in self._by_kind.values() if x.severity == severity)
