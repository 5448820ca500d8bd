"""From the command line to a configuration that a run can start with, or what is wrong with it."""

import difflib
from collections.abc import Iterator, Sequence

import yaml  # type: ignore[import-untyped]
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from ga_detectron2.config import add_ga_config
from ga_detectron2.data import check_num_classes
from ga_detectron2.errors import ConfigError

from .config_file import check_config_file
from .datasets import check_dataset, is_missing, register_arguments
from .device import available_device, check_device
from .optimizer import FULL_MODEL
from .run_values import check_values

__all__ = ["check_run", "load_config", "use_available_device"]

NUM_COCO_KEYPOINTS = 17


def load_config(
    config_file: str, overrides: Sequence[str] = (), datasets: Sequence[str] = ()
) -> CfgNode:
    """Read a configuration, not frozen.

    Args:
        config_file: a YAML file, read safely; tags that would run Python are refused.
        overrides: keys and values in turn.
        datasets: to be registered first, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        ConfigError: any of these is wrong.
    """
    cfg = get_cfg()
    add_ga_config(cfg)
    if not config_file:
        raise ConfigError("--config-file is missing; name one, such as configs/ga_faster_R_50.yaml")
    register_arguments(datasets)
    check_config_file(config_file)
    try:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except (
        AssertionError,
        AttributeError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
        yaml.YAMLError,
    ) as error:
        raise ConfigError(f"{config_file}: {_message(error)}{_hint(error, cfg)}") from error
    try:
        cfg.merge_from_list(list(overrides))
    except (AssertionError, KeyError, ValueError) as error:
        keys = ", ".join(overrides[::2])
        hint = _hint(error, cfg, overrides[::2])
        raise ConfigError(f"overrides ({keys}): {_message(error)}{hint}") from error
    return cfg


def use_available_device(cfg: CfgNode) -> str | None:
    """Set ``MODEL.DEVICE`` to "cpu" where CUDA is asked for and absent.

    Returns:
        A note to log if it was changed.
    """
    cfg.MODEL.DEVICE, note = available_device("MODEL.DEVICE", cfg.MODEL.DEVICE)
    return note


def check_run(cfg: CfgNode, num_processes: int = 1, eval_only: bool = False) -> None:
    """Refuse what detectron2 would refuse only later, or in words without the key.

    What concerns the model alone is checked when the model is built.

    Args:
        cfg: complete.
        num_processes: on all machines.
        eval_only: whether nothing is trained.

    Raises:
        ConfigError: with the key, its value, and what would be right.
    """
    check_values(cfg, eval_only)
    _check_datasets(cfg, eval_only)
    try:
        check_num_classes(cfg, eval_only)
    except ValueError as error:
        raise ConfigError(error) from error
    _check_roi_heads(cfg)
    if cfg.MODEL.KEYPOINT_ON:  # what loads the data looks at it, too, for whichever model
        for name in (*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST):
            _check_keypoints(cfg, name)
    amp = cfg.SOLVER.AMP.ENABLED
    check_device("MODEL.DEVICE", cfg.MODEL.DEVICE, num_processes, "SOLVER.AMP.ENABLED", amp)
    if not eval_only:
        _check_solver(cfg, num_processes)
    _check_augmented_test(cfg)


def _check_datasets(cfg: CfgNode, eval_only: bool) -> None:
    splits = ("TEST",) if eval_only else ("TRAIN", "TEST")
    if not cfg.DATASETS[splits[0]]:
        raise ConfigError(f"DATASETS.{splits[0]} is empty; name a data set, such as ga_shapes_val")
    for split in splits:
        names = cfg.DATASETS[split]
        for name in names:
            check_dataset(f"DATASETS.{split}", name)
        if not cfg.MODEL.LOAD_PROPOSALS:
            continue
        key = f"DATASETS.PROPOSAL_FILES_{split}"
        files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        if len(files) != len(names):
            raise ConfigError(
                f"{key} names {len(files)} files for {len(names)} data sets; MODEL.LOAD_PROPOSALS "
                "needs one for each, see tools/dump_proposals.py"
            )
        for file in files:
            if is_missing(file):
                raise ConfigError(f"{key}: there is no file '{file}'")


def _check_roi_heads(cfg: CfgNode) -> None:
    """What detectron2 asserts without words, or finds out in the first step of training."""
    if cfg.MODEL.META_ARCHITECTURE not in ("GeneralizedRCNN", "PanopticFPN"):
        return
    heads = cfg.MODEL.ROI_HEADS
    if heads.NAME == "CascadeROIHeads":
        ious = cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS
        if tuple(heads.IOU_THRESHOLDS) != tuple(ious[:1]):
            raise ConfigError(
                f"MODEL.ROI_HEADS.IOU_THRESHOLDS {list(heads.IOU_THRESHOLDS)} must be the first of "
                f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {tuple(ious)}, [{ious[0]}]"
            )
        if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
            raise ConfigError(
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True for CascadeROIHeads"
            )


def _check_keypoints(cfg: CfgNode, dataset_name: str) -> None:
    number = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    names = MetadataCatalog.get(dataset_name).get("keypoint_names")
    if names is None:
        raise ConfigError(
            f"MODEL.KEYPOINT_ON: data set '{dataset_name}' has no keypoints: a category of its "
            "JSON must list their names as 'keypoints'"
        )
    if len(names) != number:
        raise ConfigError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {number}, but data set '{dataset_name}' has "
            f"{len(names)}: set it to {len(names)}"
        )
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    if len(sigmas) != number and (sigmas or number != NUM_COCO_KEYPOINTS):
        raise ConfigError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} numbers for {number} keypoints; it needs "
            "one for each, such as 0.05 (only COCO's 17 have known ones)"
        )


def _check_solver(cfg: CfgNode, num_processes: int) -> None:
    solver = cfg.SOLVER
    workers = solver.REFERENCE_WORLD_SIZE or num_processes
    if workers < 0 or solver.IMS_PER_BATCH % workers:
        source = (
            f"SOLVER.REFERENCE_WORLD_SIZE {workers}"
            if solver.REFERENCE_WORLD_SIZE
            else f"the {workers} processes"
        )
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} must be a multiple of {source}"
        )
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in ("value", "norm", FULL_MODEL):
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE '{clip.CLIP_TYPE}' must be 'value', 'norm' (each "
            f"parameter alone) or '{FULL_MODEL}'"
        )


def _check_augmented_test(cfg: CfgNode) -> None:
    if not cfg.TEST.AUG.ENABLED:
        return
    name = cfg.MODEL.META_ARCHITECTURE
    reason = None
    if name in META_ARCH_REGISTRY and not issubclass(META_ARCH_REGISTRY.get(name), GeneralizedRCNN):
        reason = f"detectron2 has test-time augmentation for GeneralizedRCNN alone, not for {name}"
    elif cfg.MODEL.LOAD_PROPOSALS:
        reason = "detectron2 cannot augment images whose proposals are loaded (LOAD_PROPOSALS)"
    elif cfg.MODEL.KEYPOINT_ON:
        reason = "detectron2 has no test-time augmentation for keypoints (MODEL.KEYPOINT_ON)"
    if reason:
        raise ConfigError(f"TEST.AUG.ENABLED must be False: {reason}")


def _message(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _hint(error: Exception, cfg: CfgNode, keys: Sequence[str] = ()) -> str:
    """ "; did you mean KEY?" for a key that ``cfg`` lacks, where one is close to it."""
    # yacs names the whole key for a file, but only its first unknown part for an override.
    unknown = [*keys, *_message(error).split()[-1:]]
    known = list(_keys(cfg))
    for key in unknown:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if close and key not in known:
            return f"; did you mean {close[0]}?"
    return ""


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{name}.")
