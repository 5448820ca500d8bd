"""Images of datasets with their objects, and pictures of their targets."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from ga_detectron2.data.check.objects import InputSize, take_objects
from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.images import read_rgb
from ga_detectron2.errors import DataError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .boxes import ground_truth_of
from .target_panel import make_target_panel

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """An image (H, W, 3) uint8 RGB of a dataset, with ``gt_boxes`` and ``gt_classes``."""

    dataset: str
    name: str
    """Name of the image file, without folder and extension, numbered if it is not unique."""
    image: np.ndarray
    ground_truth: Instances


def first_records(datasets: Sequence[str], number: int) -> list[tuple[str, dict[str, Any]]]:
    """Records of the first images of registered datasets, each with the name of its dataset."""
    return [(name, x) for name in datasets for x in DatasetCatalog.get(name)][:number]


def read_samples(records: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Sample]:
    """Read the images of records from :func:`first_records`.

    Raises:
        DataError: an image cannot be read.
    """
    taken: set[str] = set()
    for dataset, record in records:
        image = read_rgb(record["file_name"])
        name = os.path.splitext(os.path.basename(record["file_name"]))[0]
        # Files of different folders may have the same name.
        name = name if name not in taken else f"{name}_{len(taken) + 1}"
        taken.add(name)
        yield Sample(dataset, name, image, ground_truth_of(record, image))


def draw_dataset_targets(
    data: CocoFile, input_size: InputSize, settings: GuidedAnchoring, number: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Targets of at most ``number`` images with objects, spread evenly over a dataset.

    Yields a name for the file, without extension, and the picture. Images that cannot be decoded
    are skipped with a warning.
    """
    objects = take_objects(data, input_size)
    with_objects = objects.image_of.unique()
    steps = torch.linspace(0, len(with_objects) - 1, min(number, len(with_objects))).round().long()
    classes = {x["id"]: i for i, x in enumerate(data.categories)}
    metadata = Metadata().set(thing_classes=[x["name"] for x in data.categories])
    for index in with_objects[steps].tolist():
        try:
            image = read_rgb(data.path_of(index))
        except DataError as error:
            logger.warning(f"Not drawn: {error}")
            continue
        chosen = objects.image_of == index
        annotations = [data.annotations[i] for i in objects.annotation_of[chosen].tolist()]
        resized = Instances(input_size.resize(*image.shape[:2]))
        resized.gt_boxes = Boxes(objects.boxes[chosen])
        resized.gt_classes = torch.tensor([classes[x["category_id"]] for x in annotations])
        name = os.path.splitext(data.images[index]["file_name"])[0]
        picture = make_target_panel(image, resized, settings, metadata, f"{data.name}: {name}")
        yield name.replace("\\", "/").strip("/.").replace("/", "_"), picture
