"""The dataset advisor behind ``tools/check_dataset.py``.

It validates a COCO JSON and its images, compares the objects with the anchors and levels of a
model, and recommends settings.
"""

from ga_detectron2.data.coco import read_coco_file
from ga_detectron2.data.findings import Findings

from .annotations import check_annotations
from .image_files import check_image_files
from .report import describe_shapes, format_findings, format_shapes

__all__ = [
    "Findings",
    "check_annotations",
    "check_image_files",
    "describe_shapes",
    "format_findings",
    "format_shapes",
    "read_coco_file",
]
