"""Configurations of runs, read from YAML and the command line, and checked before work starts."""

import difflib
import os
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import cuda

from ga_detectron2.config import add_ga_config
from ga_detectron2.data import check_num_classes, register_datasets
from ga_detectron2.errors import ConfigError, message_of

__all__ = [
    "check_dataset",
    "check_run",
    "load_config",
    "register_arguments",
    "use_available_device",
]


def load_config(
    config_file: str, overrides: Sequence[str] = (), datasets: Sequence[str] = ()
) -> CfgNode:
    """Read a configuration; it is not frozen.

    Args:
        config_file: YAML file. It is read safely: tags that would run Python are refused.
        overrides: alternating keys and values.
        datasets: datasets to register first, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        ConfigError: an argument is invalid.
    """
    if not config_file:
        raise ConfigError("--config-file is missing; name one, such as configs/ga_faster_R_50.yaml")
    register_arguments(datasets)
    cfg = get_cfg()
    add_ga_config(cfg)
    try:
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except RecursionError as error:
        raise ConfigError(f"{config_file}: _BASE_ refers back to a file based on it") from error
    except Exception as error:  # yaml, fvcore, yacs and detectron2 raise errors of many kinds
        message = message_of(error)
        if isinstance(error, AttributeError | TypeError):
            message = f"is not a mapping of keys, such as 'MODEL:', to values ({message})"
        raise ConfigError(f"{config_file}: {message}{_hint(error, cfg)}") from error
    try:
        cfg.merge_from_list(list(overrides))
    except (AssertionError, KeyError, ValueError) as error:
        keys = ", ".join(overrides[::2])
        hint = _hint(error, cfg, overrides[::2])
        raise ConfigError(f"overrides ({keys}): {message_of(error)}{hint}") from error
    return cfg


def register_arguments(datasets: Sequence[str]) -> None:
    """Register the arguments of ``--dataset``, each ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``.

    Raises:
        ConfigError: an argument is invalid.
    """
    try:
        register_datasets(datasets)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--dataset: {error}") from error


def use_available_device(cfg: CfgNode) -> str | None:
    """Set ``MODEL.DEVICE`` to "cpu" if it is a CUDA device and none is available.

    Returns:
        a message to log if it was changed.
    """
    device = str(cfg.MODEL.DEVICE)
    if not device.startswith("cuda") or cuda.is_available():
        return None
    cfg.MODEL.DEVICE = "cpu"
    return f"No CUDA device is available: MODEL.DEVICE is 'cpu' instead of '{device}'"


def check_run(cfg: CfgNode, num_processes: int = 1, eval_only: bool = False) -> None:
    """Check datasets, batch size and device before anything is built.

    The model's own keys are checked when it is built.

    Args:
        cfg: complete configuration.
        num_processes: number of processes on all machines.
        eval_only: whether nothing is trained.

    Raises:
        ConfigError: a setting is invalid; the message names its key, its value and the remedy.
    """
    for split in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        _check_datasets(cfg, split, required=eval_only or split == "TRAIN")
    try:
        check_num_classes(cfg, eval_only)
    except ValueError as error:
        raise ConfigError(error) from error
    if not cfg.OUTPUT_DIR:
        raise ConfigError("OUTPUT_DIR is empty; set it to a folder, such as ./output")
    if eval_only:
        return
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ConfigError(
            "SOLVER.AMP.ENABLED needs a CUDA device, and MODEL.DEVICE is 'cpu': set it to False"
        )
    batch, workers = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if batch < 1 or batch % (workers or num_processes):
        divisor = f"the {num_processes} processes"
        if workers:
            divisor = f"SOLVER.REFERENCE_WORLD_SIZE {workers}"
        raise ConfigError(f"SOLVER.IMS_PER_BATCH {batch} must be a multiple of {divisor}")


def _check_datasets(cfg: CfgNode, split: str, required: bool) -> None:
    names = cfg.DATASETS[split]
    if required and not names:
        raise ConfigError(f"DATASETS.{split} is empty; name a dataset, such as ga_shapes_val")
    for name in names:
        check_dataset(f"DATASETS.{split}", name)
    if not cfg.MODEL.LOAD_PROPOSALS:
        return
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    files = cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(files) != len(names):
        raise ConfigError(
            f"{key} names {len(files)} files for {len(names)} datasets; MODEL.LOAD_PROPOSALS "
            "needs one for each, see tools/dump_proposals.py"
        )
    for file in files:
        if _is_missing(file):
            raise ConfigError(f"{key}: there is no file '{file}'")


def check_dataset(key: str, name: str) -> None:
    """Check that a dataset is registered and that its annotations exist.

    Args:
        key: key or option that ``name`` is the value of.
        name: name of a dataset.

    Raises:
        ConfigError: see above.
    """
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(str(name), DatasetCatalog.list(), n=1)
        raise ConfigError(
            f"{key}: there is no dataset '{name}'"
            + (f", did you mean '{close[0]}'?" if close else "")
            + "; register one with --dataset NAME=ANNOTATIONS.json:IMAGE_FOLDER"
        )
    json_file = MetadataCatalog.get(name).get("json_file", "")
    if json_file and _is_missing(json_file):
        raise ConfigError(
            f"{key}: the annotations of '{name}' are not at '{json_file}'; set the environment "
            "variable DETECTRON2_DATASETS to the folder of detectron2's datasets, or register your "
            "own with --dataset NAME=ANNOTATIONS.json:IMAGE_FOLDER"
        )


def _is_missing(path: str) -> bool:
    """Whether a local file does not exist; URLs are only known once they are fetched."""
    return "://" not in path and not os.path.isfile(path)


def _hint(error: Exception, cfg: CfgNode, keys: Sequence[str] = ()) -> str:
    """Suggest the known key that is closest to an unknown one; "" if there is none."""
    # yacs names the whole key for a file, but only its first unknown part for an override.
    unknown = [*keys, *message_of(error).split()[-1:]]
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
