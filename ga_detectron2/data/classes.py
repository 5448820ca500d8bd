"""Classes of the data against those of a model, compared before the model gets to see them.

In a loss, a class that the model does not have ends on a GPU in an assertion without a name; and to
look for one there would mean to wait for the GPU in every step.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ga_detectron2.errors import DataError

__all__ = [
    "ClassCheckedMapper",
    "ClassError",
    "ModelClasses",
    "check_dataset_classes",
    "check_num_classes",
    "check_record_classes",
    "classes_of_model",
]

_NUM_CLASSES_OF = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
    "GARetinaNet": "RETINANET",
}


class ClassError(DataError):
    """An object is of a class that the model does not have."""


class ModelClasses(NamedTuple):
    """Attributes: number: of a model's classes; key: of its configuration, which says so."""

    number: int
    key: str

    @property
    def of_roi_heads(self) -> bool:
        """Whether the model classifies proposals."""
        return "roi_heads" in self.key.lower()


def classes_of_model(cfg: CfgNode) -> ModelClasses | None:
    """None for a model without classes (``ProposalNetwork``), or of an unknown architecture."""
    node = _NUM_CLASSES_OF.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None:
        return None
    return ModelClasses(cfg.MODEL[node].NUM_CLASSES, f"MODEL.{node}.NUM_CLASSES")


def check_num_classes(cfg: CfgNode, eval_only: bool = False) -> None:
    """Compare the model's number of classes with that of ``cfg.DATASETS``, before any work is done.

    Passes over models of :func:`classes_of_model` None, and data sets whose metadata has no
    ``thing_classes`` yet.

    Args:
        cfg: complete.
        eval_only: whether nothing is trained; ``DATASETS.TEST`` alone counts then.

    Raises:
        ValueError: they differ; too few classes would otherwise end in an index error on a GPU, or
            too many in a model with classes that it never sees.
    """
    classes = classes_of_model(cfg)
    if classes is not None:
        for name in (*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST):
            check_dataset_classes(name, classes)


def check_dataset_classes(dataset_name: str, classes: ModelClasses) -> None:
    """:func:`check_num_classes` for one data set.

    Raises:
        ValueError: see there.
    """
    # MetadataCatalog.get would create an entry for a misspelt name.
    if dataset_name not in MetadataCatalog:
        return
    names = MetadataCatalog.get(dataset_name).get("thing_classes")
    if names is not None and len(names) != classes.number:
        raise ValueError(
            f"{classes.key} is {classes.number}, but data set '{dataset_name}' has {len(names)} "
            f"classes: set {classes.key} to {len(names)}"
        )


def check_record_classes(records: Iterable[Mapping[str, Any]], classes: ModelClasses) -> None:
    """Refuse objects of classes that a model does not have, before any image is read.

    Args:
        records: of a data set, in detectron2's format. Crowds are passed over, as when it loads
            training data.
        classes: of the model.

    Raises:
        ClassError: names the image's file, the class and the key.
    """
    for record in records:
        for annotation in record.get("annotations", ()):
            number = annotation.get("category_id", 0)
            if not 0 <= number < classes.number and not annotation.get("iscrowd", 0):
                raise _error(record, number, classes)


class ClassCheckedMapper:
    """Any mapper, whose results are looked through for classes that a model does not have.

    It does so where images are loaded, on the CPU: in the loader's own processes if it has some.
    """

    def __init__(self, mapper: Any, classes: ModelClasses):
        self.mapper = mapper
        self.classes = classes

    def __call__(self, record: Any) -> Any:
        """
        Raises:
            ClassError: names the image's file, the class and the key.
        """
        result = self.mapper(record)
        instances = result.get("instances") if isinstance(result, Mapping) else None
        if instances is not None and instances.has("gt_classes") and len(instances):
            numbers = instances.gt_classes
            for number in (int(numbers.min()), int(numbers.max())):
                if not 0 <= number < self.classes.number:
                    raise _error(result, number, self.classes)
        return result


def _error(record: Mapping[str, Any], number: int, classes: ModelClasses) -> ClassError:
    return ClassError(
        f"{record.get('file_name', 'an image')}: an object is of class {number} (category_id), but "
        f"{classes.key} is {classes.number}: classes must be from 0 to {classes.number - 1}"
    )
