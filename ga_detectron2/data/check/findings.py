"""What a check can find in a data set, how bad each kind is, and what was found of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ERROR", "KINDS", "NOTE", "WARNING", "Finding", "Findings", "Kind"]

ERROR, WARNING, NOTE = "error", "warning", "note"

MAX_EXAMPLES = 20
"""Kept of each kind."""


@dataclass(frozen=True)
class Kind:
    """Attributes: severity: of a single case; text: what it is and what follows from it."""

    severity: str
    text: str


KINDS = {
    # An error stops training or scoring, or makes the model learn what is not so.
    "image_incomplete": Kind(
        ERROR, "images without an id, a file_name, or a height and width above 0"
    ),
    "annotation_incomplete": Kind(
        ERROR, "annotations without an id, image_id, category_id or bbox: no loader takes them"
    ),
    "category_incomplete": Kind(ERROR, "categories without an id or a name"),
    "image_id_twice": Kind(ERROR, "image ids of several images: only the last of them is seen"),
    "annotation_id_twice": Kind(
        ERROR, "annotation ids of several annotations: detectron2 refuses the file"
    ),
    "category_id_twice": Kind(ERROR, "category ids of several categories"),
    "image_missing": Kind(ERROR, "image files that are not there"),
    "image_unreadable": Kind(ERROR, "image files that cannot be read: training stops at them"),
    "image_size_differs": Kind(
        ERROR, "images of another size than the JSON says: training stops at them"
    ),
    "category_undeclared": Kind(
        ERROR, "annotations of a category that is not declared: detectron2 refuses the file"
    ),
    "box_malformed": Kind(ERROR, "boxes that are not a list of four numbers"),
    "box_not_finite": Kind(ERROR, "boxes with NaN or infinity"),
    "box_negative": Kind(
        ERROR, "boxes of negative width or height (bbox is x, y, width, height): dropped"
    ),
    "box_outside": Kind(ERROR, "boxes that lie outside of their image: dropped"),
    "box_corners": Kind(
        ERROR, "boxes that look like x1, y1, x2, y2; COCO's are x, y, width, height"
    ),
    "box_normalized": Kind(
        ERROR, "boxes that look like shares of the image's size; COCO's are in pixels"
    ),
    "not_scorable": Kind(
        ERROR, "annotations without area or iscrowd (0 or 1): COCOEvaluator stops at them"
    ),
    "ignore_flag": Kind(ERROR, 'annotations with "ignore" set: detectron2 refuses the file'),
    # A warning costs something, or is likely a slip.
    "annotation_without_image": Kind(
        WARNING, "annotations of an image that is not in the file: lost"
    ),
    "file_twice": Kind(WARNING, "image files that several images name"),
    "category_unused": Kind(
        WARNING, "categories without an annotation: a class that is never learned, AP is NaN"
    ),
    "category_name_twice": Kind(
        WARNING, "names that several categories have: classes that nobody can tell apart"
    ),
    "box_empty": Kind(WARNING, "boxes of no width or height: dropped in training"),
    "box_degenerate": Kind(WARNING, "boxes thinner than a pixel"),
    "box_reaches_out": Kind(
        WARNING, "boxes that reach out of their image by over a pixel: clipped in training alone"
    ),
    "box_twice": Kind(WARNING, "annotations that repeat another's image, category and box"),
    "area_wrong": Kind(
        WARNING, "areas that are not above 0 or exceed the box: AP of small to large is off"
    ),
    "polygon_invalid": Kind(
        WARNING, "annotations whose polygons all have fewer than three points: dropped"
    ),
    # A note is as it may be.
    "crowd": Kind(NOTE, "crowds: not trained on, and neither right nor wrong in scoring"),
    "image_empty": Kind(
        NOTE,
        "images without an object: left out of training unless "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
    ),
}


@dataclass
class Finding:
    """All cases of a kind. Attributes: examples: the first ones, in words."""

    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def severity(self) -> str:
        return KINDS[self.kind].severity

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "what": KINDS[self.kind].text,
            "examples": self.examples,
        }


class Findings:
    """What was found so far, by kind."""

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
        """The cases of a kind, which may be none."""
        assert kind in KINDS
        return self._by_kind.get(kind, Finding(kind))

    def in_order(self) -> list[Finding]:
        """Those with at least one case, the worst first."""
        return [self._by_kind[kind] for kind in KINDS if kind in self._by_kind]

    def count(self, severity: str) -> int:
        """Number of cases of a severity."""
        return sum(x.count for x in self._by_kind.values() if x.severity == severity)
