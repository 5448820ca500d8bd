"""Kinds of faults in a dataset, their severities, and the cases that were found."""

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["ERROR", "KINDS", "NOTE", "WARNING", "Finding", "Findings"]

ERROR, WARNING, NOTE = "error", "warning", "note"

MAX_EXAMPLES = 20
"""Cases of a kind that are kept in words; the others are only counted."""

KINDS = {
    # Training or scoring would stop, or the model would learn something wrong.
    ERROR: {
        "image_malformed": "images without a valid id, file_name, height or width",
        "category_malformed": "categories without a valid id or name",
        "annotation_malformed": "annotations with a missing or invalid field",
        "box_malformed": "boxes that are not four finite numbers",
        "category_undeclared": "annotations of a category that is not declared",
        "image_id_twice": "image ids that are used more than once",
        "annotation_id_twice": "annotation ids that are used more than once",
        "category_id_twice": "category ids that are used more than once",
        "image_missing": "image files that do not exist",
        "image_unreadable": "image files that cannot be decoded: training stops at them",
        "image_size_differs": "images of another size than the JSON says: training stops at them",
        "box_negative": "boxes of negative width or height (bbox is x, y, w, h): dropped",
        "box_outside": "boxes outside of their image: dropped",
        "box_corners": "boxes that look like x1, y1, x2, y2; COCO's are x, y, width, height",
        "box_normalized": "boxes that look relative to the image size; COCO's are in pixels",
    },
    # Something is lost, or is likely a mistake.
    WARNING: {
        "annotation_without_image": "annotations of an image that is not in the file: lost",
        "file_twice": "image files that several images name",
        "category_unused": "categories without an annotation: never learned, AP is NaN",
        "category_name_twice": "names that several categories share",
        "ignore_flag": 'annotations with "ignore" set: treated as crowds',
        "box_empty": "boxes of zero width or height: dropped in training",
        "box_degenerate": "boxes thinner than a pixel",
        "box_reaches_out": "boxes that exceed their image by over a pixel: clipped in training, "
        "not in scoring",
        "box_twice": "annotations with the image, category and box of another",
        "area_wrong": "areas that are not positive or exceed the box: AP by object size is off",
        "polygon_degenerate": "annotations without a polygon of three points: without a mask, the "
        "box counts",
    },
    # Nothing to repair.
    NOTE: {
        "field_filled": "annotations without area, iscrowd or num_keypoints: filled in",
        "annotation_id_unusable": "annotation ids that pycocotools cannot match (such as 0): "
        "renumbered for scoring",
        "crowd": "crowds: not trained on, and neither right nor wrong in scoring",
        "image_empty": "images without an object: left out of training unless "
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
    },
}
"""Kinds and their descriptions by severity, the worst first."""


@dataclass
class Finding:
    """All cases of one kind. Attributes: text: what they are; examples: the first, in words."""

    kind: str
    severity: str
    text: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """The cases found so far, by kind."""

    def __init__(self) -> None:
        self._by_kind = {
            kind: Finding(kind, severity, text)
            for severity, kinds in KINDS.items()
            for kind, text in kinds.items()
        }

    def add(self, kind: str, cases: Iterable[str]) -> None:
        """Add cases of one of ``KINDS``, each in words."""
        finding = self._by_kind[kind]
        for case in cases:
            finding.count += 1
            if len(finding.examples) < MAX_EXAMPLES:
                finding.examples.append(case)

    def __getitem__(self, kind: str) -> Finding:
        """The finding of a kind, perhaps with no cases."""
        return self._by_kind[kind]

    def in_order(self) -> list[Finding]:
        """The findings with at least one case, the worst first."""
        return [finding for finding in self._by_kind.values() if finding.count]

    def count(self, severity: str) -> int:
        """Number of cases of a severity."""
        return sum(x.count for x in self._by_kind.values() if x.severity == severity)
