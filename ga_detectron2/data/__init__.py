"""The embedded data set, and helpers to register others. Importing this registers the former."""

from ga_detectron2.errors import DataError

from .boxes import BoxError
from .classes import ClassError, check_num_classes
from .embedded import register_embedded_datasets
from .register import (
    DatasetArgument,
    coco_subset,
    parse_dataset_argument,
    register_datasets,
)
from .shapes import CLASS_NAMES, ShapesConfig
from .test_loader import build_test_loader
from .train_loader import TrainLoader, build_train_loader, make_train_loader

__all__ = [
    "CLASS_NAMES",
    "BoxError",
    "ClassError",
    "DataError",
    "DatasetArgument",
    "ShapesConfig",
    "TrainLoader",
    "build_test_loader",
    "build_train_loader",
    "check_num_classes",
    "coco_subset",
    "make_train_loader",
    "parse_dataset_argument",
    "register_datasets",
    "register_embedded_datasets",
]

register_embedded_datasets()
