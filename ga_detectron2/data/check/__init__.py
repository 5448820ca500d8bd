"""Validates a COCO JSON, and says how its objects fit the anchors and levels of a model.

It is what ``tools/check_dataset.py`` runs.
"""

from .advice import advise
from .annotations import check_annotations
from .coco_file import CocoFile, find_dataset, read_coco_file
from .findings import ERROR, KINDS, NOTE, WARNING, Finding, Findings
from .fit import AnchorFit, fit
from .image_files import HOW, check_image_files
from .objects import Geometry, InputSize, Objects, settings_of, take_objects
from .report import describe_shapes, format_findings, format_shapes, number_of

__all__ = [
    "ERROR",
    "HOW",
    "KINDS",
    "NOTE",
    "WARNING",
    "AnchorFit",
    "CocoFile",
    "Finding",
    "Findings",
    "Geometry",
    "InputSize",
    "Objects",
    "advise",
    "check_annotations",
    "check_image_files",
    "describe_shapes",
    "find_dataset",
    "fit",
    "format_findings",
    "format_shapes",
    "number_of",
    "read_coco_file",
    "settings_of",
    "take_objects",
]
