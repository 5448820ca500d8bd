"""Pictures of samples of a data set, with their targets."""

import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from ga_detectron2.data.check.objects import InputSize, take_objects
from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.images import read_rgb
from ga_detectron2.errors import DataError
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

from .targets import make_target_panel

__all__ = ["draw_dataset_targets"]

logger = logging.getLogger(__name__)


def draw_dataset_targets(
    data: CocoFile, input_size: InputSize, settings: GuidedAnchoring, number: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Draw images with objects, spread evenly over the data set.

    An image that cannot be read is left out with a warning.

    Args:
        data: the data set.
        input_size: to which images are resized.
        settings: of the model.
        number: of images at most.

    Yields:
        a name for the file, without ending, and the picture (H, W, 3) uint8 RGB.
    """
    objects = take_objects(data, input_size)
    with_objects = objects.image_of.unique()
    steps = torch.linspace(0, len(with_objects) - 1, min(number, len(with_objects))).round().long()
    classes = {
        x["id"]: i for i, x in enumerate(sorted(data.categories, key=lambda x: str(x["id"])))
    }
    names = {classes[x["id"]]: x["name"] for x in data.categories}
    # All that is asked of detectron2's metadata.
    metadata = SimpleNamespace(
        get=lambda _key, _default=None: [names[i] for i in range(len(names))]
    )
    for index in with_objects[steps].tolist():
        path = data.path_of(index)
        try:
            image = read_rgb(path)
        except DataError as error:
            logger.warning(f"Not drawn: {error}")
            continue
        height, width = input_size.resize(*image.shape[:2])
        chosen = objects.image_of == index
        boxes = Boxes(objects.boxes[chosen].clone())
        boxes.scale(image.shape[1] / width, image.shape[0] / height)
        labels = [
            classes[data.annotations[i]["category_id"]]
            for i in objects.annotation_of[chosen].tolist()
        ]
        instances = Instances(image.shape[:2], gt_boxes=boxes, gt_classes=torch.tensor(labels))
        name = os.path.splitext(data.images[index]["file_name"])[0]
        picture = make_target_panel(
            image, instances, (height, width), settings, metadata, f"{data.name}: {name}"
        )
        yield name.replace("\\", "/").strip("/.").replace("/", "_"), picture
