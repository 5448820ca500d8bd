"""Registration of COCO JSON files as datasets: ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``."""

import functools
import logging
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n

from ga_detectron2.errors import DataError

from .coco import NO_MASK, CocoFile, complete_json, read_coco_file, refuse_errors
from .findings import Findings

__all__ = [
    "DatasetArgument",
    "adopt_dataset",
    "check_files",
    "has_reorderable_classes",
    "parse_dataset_argument",
    "register_datasets",
]

_FORM = "NAME=ANNOTATIONS.json:IMAGE_FOLDER"
_REPAIRS = ("ignore_flag", "field_filled", "annotation_id_unusable", "polygon_degenerate")


class DatasetArgument(NamedTuple):
    """A dataset as named on the command line."""

    name: str
    json_file: str
    image_root: str


def parse_dataset_argument(argument: str) -> DatasetArgument:
    """Split ``NAME=ANNOTATIONS.json:IMAGE_FOLDER`` without accessing the files.

    The folder starts after the last colon, so the path of the JSON may contain others. ``~`` is
    the home folder.

    Raises:
        DataError: ``argument`` does not have this form.
    """
    match = re.fullmatch(r"([^=]+)=(.+):([^:]+)", argument.strip())
    parts = [part.strip() for part in match.groups()] if match else []
    if not all(parts) or not parts:
        raise DataError(f"dataset argument {argument!r} should be {_FORM}")
    name, json_file, image_root = parts
    return DatasetArgument(name, os.path.expanduser(json_file), os.path.expanduser(image_root))


def check_files(dataset: DatasetArgument) -> None:
    """Check that a dataset's JSON and image folder exist.

    Raises:
        DataError: one of them is missing.
    """
    name, json_file, image_root = dataset
    if not os.path.isfile(json_file):
        raise DataError(f"dataset '{name}': there is no annotation file {json_file}")
    if not os.path.isdir(image_root):
        raise DataError(f"dataset '{name}': there is no image folder {image_root}")


def register_datasets(arguments: Iterable[str]) -> list[str]:
    """Register datasets, each given as ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``, with detectron2.

    Their names can then be used in ``DATASETS.TRAIN`` and ``DATASETS.TEST``. Either all arguments
    are registered or none. A dataset that is already registered with the same files is kept.

    Fields that only evaluation reads (``area``, ``iscrowd``, ``num_keypoints``, positive annotation
    ids) are filled in, and annotations with ``ignore`` become crowds; ``json_file`` of the metadata
    is then a completed copy of the file.

    Returns:
        the names, in the order of ``arguments``.

    Raises:
        DataError: an argument is malformed, a name is taken or repeated, a file is missing, or a
            JSON is not one that detectron2 can train with; names the first such entry.
    """
    datasets = [parse_dataset_argument(argument) for argument in arguments]
    names = [dataset.name for dataset in datasets]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"dataset '{name}' is given {names.count(name)} times; rename one")
    new = [dataset for dataset in datasets if not _is_registered(dataset)]
    for dataset, metadata in [(dataset, _read_metadata(dataset)) for dataset in new]:
        DatasetCatalog.register(dataset.name, functools.partial(_load_records, dataset.name))
        MetadataCatalog.get(dataset.name).set(evaluator_type="coco", **metadata)
    return names


def adopt_dataset(name: str) -> None:
    """Read a dataset of detectron2's ``register_coco_instances`` as :func:`register_datasets` does.

    Datasets registered in any other way, and detectron2's own COCO, are left as they are.

    Raises:
        DataError: its files are missing, or the JSON is not one that detectron2 can train with.
    """
    function = DatasetCatalog.data.get(name)
    if getattr(function, "__module__", "") != register_coco_instances.__module__:
        return
    metadata = MetadataCatalog.get(name)
    # detectron2's own COCO has colours: it is known to be right, and takes long to read.
    if "thing_colors" in metadata.as_dict():
        return
    files = (PathManager.get_local_path(x) for x in (metadata.json_file, metadata.image_root))
    read = _read_metadata(DatasetArgument(name, *files))
    DatasetCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(_load_records, name))
    vars(metadata).update(read)  # Metadata itself refuses changes.


def has_reorderable_classes(name: str) -> bool:
    """Whether a dataset is loaded with the classes in the order of its metadata."""
    return getattr(DatasetCatalog.data.get(name), "func", None) is _load_records


def _load_records(name: str) -> list[dict[str, Any]]:
    """detectron2's records of a registered JSON, with classes numbered as in its metadata."""
    metadata = MetadataCatalog.get(name)
    if metadata.repairs:
        log_first_n(logging.WARNING, metadata.repairs, key="message")
    records = load_coco_json(
        metadata.json_file, metadata.image_root, extra_annotation_keys=[NO_MASK]
    )
    numbers = metadata.thing_dataset_id_to_contiguous_id
    for record in records:
        for annotation in record["annotations"]:
            annotation["category_id"] = numbers[annotation["category_id"]]
    return records


def _is_registered(dataset: DatasetArgument) -> bool:
    """Whether the same files are registered under this name; refuses a name with others."""
    if dataset.name not in DatasetCatalog:
        return False
    metadata = MetadataCatalog.get(dataset.name)
    known = (metadata.get("source_file", metadata.get("json_file")), metadata.get("image_root"))
    if known == (dataset.json_file, dataset.image_root):
        return True
    raise DataError(
        f"a dataset named '{dataset.name}' is already registered, with annotations {known[0]} and "
        f"images {known[1]}; choose another name"
    )


def _read_metadata(dataset: DatasetArgument) -> dict[str, Any]:
    """Metadata of a JSON that detectron2 can load.

    Raises:
        DataError: it cannot.
    """
    check_files(dataset)
    name, json_file, image_root = dataset
    findings = Findings()
    data = read_coco_file(name, json_file, image_root, findings)
    refuse_errors(name, json_file, findings)
    if not os.path.isfile(data.path_of(0)):
        raise DataError(
            f"dataset '{name}': the image {data.images[0]['file_name']} of {json_file} is not in "
            f"the folder {image_root}; file_name should be relative to the folder"
        )
    repairs = [f"{findings[x].count} {findings[x].text}" for x in _REPAIRS if findings[x].count]
    return {
        "json_file": complete_json(data),
        "source_file": json_file,
        "image_root": image_root,
        "repairs": f"Dataset '{name}', {json_file}: {'; '.join(repairs)}" if repairs else "",
        **_class_metadata(data),
    }


def _class_metadata(data: CocoFile) -> dict[str, Any]:
    """Metadata that detectron2 sets when it loads a JSON, and that of keypoints.

    A model has one set of keypoints: that of the first category with any. Keypoints whose names
    differ only in "left" and "right" change places when an image is flipped.
    """
    categories = sorted(data.categories, key=lambda x: x["id"])
    classes = {
        "thing_classes": [x["name"] for x in categories],
        "thing_dataset_id_to_contiguous_id": {x["id"]: i for i, x in enumerate(categories)},
    }
    names = next((x["keypoints"] for x in data.categories if x.get("keypoints")), ())
    if not names:
        return classes
    pairs = [(n, n.replace("left", "right")) for n in names if "left" in n]
    return {
        **classes,
        "keypoint_names": tuple(names),
        "keypoint_flip_map": tuple(pair for pair in pairs if pair[1] in names),
    }
