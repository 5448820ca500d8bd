"""Data sets by name: registered from the command line, and looked for."""

import difflib
import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from ga_detectron2.data import register_datasets
from ga_detectron2.errors import ConfigError

__all__ = ["check_dataset", "is_missing", "register_arguments"]


def register_arguments(datasets: Sequence[str]) -> None:
    """Register what ``--dataset`` was given, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        ConfigError: one of them is wrong.
    """
    try:
        register_datasets(datasets)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--dataset: {error}") from error


def check_dataset(key: str, name: str) -> None:
    """Refuse a data set that is not registered, or whose annotations are missing.

    Args:
        key: of the configuration, to be named.
        name: of the data set.

    Raises:
        ConfigError: see above.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{key}: {name!r} must be the name of a data set")
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
        raise ConfigError(
            f"{key}: there is no data set '{name}'"
            + (f", did you mean '{close[0]}'?" if close else "")
            + "; register one with --dataset NAME=ANNOTATIONS.json:IMAGE_FOLDER"
        )
    json_file = MetadataCatalog.get(name).get("json_file", "")
    if json_file and is_missing(json_file):
        raise ConfigError(
            f"{key}: the annotations of '{name}' are not at '{json_file}'; set the environment "
            "variable DETECTRON2_DATASETS to the folder of detectron2's data sets, or name your "
            "own with --dataset NAME=ANNOTATIONS.json:IMAGE_FOLDER"
        )


def is_missing(path: str) -> bool:
    """Whether a local file is not there; others are only known when they are fetched."""
    return "://" not in path and not os.path.isfile(path)
