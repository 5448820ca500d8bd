"""Datasets: the embedded one, COCO JSON files, and loaders of both.

Importing this registers the embedded dataset.
"""

from .classes import check_num_classes
from .embedded import register_embedded_datasets
from .loaders import TrainLoader, build_test_loader, build_train_loader
from .register import DatasetArgument, parse_dataset_argument, register_datasets

__all__ = [
    "DatasetArgument",
    "TrainLoader",
    "build_test_loader",
    "build_train_loader",
    "check_num_classes",
    "parse_dataset_argument",
    "register_datasets",
    "register_embedded_datasets",
]

register_embedded_datasets()
