"""The classes of a run's datasets, against each other and against the model's."""

import logging
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ga_detectron2.errors import DataError

from .register import adopt_dataset, has_reorderable_classes

__all__ = ["ModelClasses", "check_num_classes", "classes_of_model", "prepare_datasets"]

logger = logging.getLogger(__name__)

_NUM_CLASSES_OF = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
    "GARetinaNet": "RETINANET",
}


class ModelClasses(NamedTuple):
    """Attributes: number: class count; key: config key that sets it."""

    number: int
    key: str


def classes_of_model(cfg: CfgNode) -> ModelClasses | None:
    """Classes of the configured model, or None if it has none or they are unknown."""
    node = _NUM_CLASSES_OF.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None:
        return None
    return ModelClasses(cfg.MODEL[node].NUM_CLASSES, f"MODEL.{node}.NUM_CLASSES")


def check_num_classes(cfg: CfgNode, eval_only: bool = False) -> None:
    """Compare the classes of ``cfg.DATASETS`` with each other and with the model's count.

    Models for which :func:`classes_of_model` is None, and datasets whose metadata has no
    ``thing_classes`` yet, are skipped.

    Args:
        cfg: complete.
        eval_only: whether nothing is trained, so that only ``DATASETS.TEST`` counts.

    Raises:
        DataError: they differ.
    """
    model = classes_of_model(cfg)
    if model is None:
        return
    all_classes = [(name, _classes_of(name)) for name in _datasets_of(cfg, eval_only)]
    known = [(name, classes) for name, classes in all_classes if classes is not None]
    for name, classes in known[1:]:
        first, expected = known[0]
        if not eval_only and sorted(classes) != sorted(expected):
            raise DataError(
                f"datasets '{first}' and '{name}' of this run have different classes, "
                f"{_listed(expected)} and {_listed(classes)}: give both JSON files the same "
                "categories (one without annotations does no harm)"
            )
    for name, classes in known:
        if len(classes) != model.number:
            raise DataError(
                f"{model.key} is {model.number}, but dataset '{name}' has {len(classes)} classes: "
                f"set {model.key} to {len(classes)}"
            )


def prepare_datasets(cfg: CfgNode, eval_only: bool = False) -> None:
    """Number the classes of all datasets of a run as in the first one of ``DATASETS.TRAIN``.

    A dataset with the same names in another order is mapped by name, with a warning.

    Args:
        cfg: complete.
        eval_only: whether nothing is trained. ``DATASETS.TRAIN`` may be missing then.

    Raises:
        DataError: the classes differ otherwise, or a JSON cannot be used.
    """
    for name in _datasets_of(cfg, eval_only):
        adopt_dataset(name)
    check_num_classes(cfg, eval_only)
    expected = _classes_of(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    if expected is None or classes_of_model(cfg) is None:
        return
    for name in _datasets_of(cfg, eval_only):
        classes = _classes_of(name)
        if classes is None or classes == expected or sorted(classes) != sorted(expected):
            continue
        difference = (
            f"datasets '{cfg.DATASETS.TRAIN[0]}' and '{name}' order their classes differently, "
            f"{_listed(expected)} and {_listed(classes)}"
        )
        if not has_reorderable_classes(name) or len(set(expected)) < len(expected):
            raise DataError(f"{difference}: use the same order")
        logger.warning(f"{difference}: they are matched by name")
        metadata: Any = MetadataCatalog.get(name)
        ids = {classes[i]: key for key, i in metadata.thing_dataset_id_to_contiguous_id.items()}
        vars(metadata).update(  # Metadata itself refuses changes.
            thing_classes=list(expected),
            thing_dataset_id_to_contiguous_id={ids[x]: i for i, x in enumerate(expected)},
        )


def _datasets_of(cfg: CfgNode, eval_only: bool) -> tuple[str, ...]:
    return (*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST)


def _classes_of(dataset_name: str) -> list[str] | None:
    # MetadataCatalog.get would create an entry for a misspelt name.
    if dataset_name not in MetadataCatalog:
        return None
    names = MetadataCatalog.get(dataset_name).get("thing_classes")
    return None if names is None else list(names)


def _listed(classes: list[str], most: int = 20) -> str:
    shown = ", ".join(classes[:most])
    return f"({shown}, ... {len(classes)} in all)" if len(classes) > most else f"({shown})"
