"""The dataset advisor behind ``tools/check_dataset.py``.

It validates a COCO JSON and its images, compares the objects with the anchors and levels of a
model, and recommends settings.
"""

from ga_detectron2.data.coco import CocoFile, read_coco_file
from ga_detectron2.data.findings import ERROR, KINDS, NOTE, WARNING, Finding, Findings

from .advice import advise
from .annotations import check_annotations
from .fit import AnchorFit, fit
from .image_files import HOW, check_image_files
from .objects import InputSize, Objects, find_dataset, settings_of, take_objects
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
