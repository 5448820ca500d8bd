"""Models by name, as in ``detectron2.model_zoo``."""

from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.config import add_ga_config
from ga_detectron2.errors import CheckpointError, ModelZooError

from .handler import ModelZooHandler, find_file

__all__ = [
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "get_lazy_config",
    "list_names",
]


def list_names() -> list[str]:
    """Names of the published configurations."""
    return sorted(path.stem for path in _config_dir().glob("ga_*.yaml"))


def get_config_file(name: str) -> str:
    """The path of a configuration, also for ``_BASE_`` in a project's own YAML.

    Args:
        name: path in ``configs``, with or without ``.yaml``: ``ga_faster_R_50``, ``Base-GARPN``,
            ``recipes/ga_mask_R_50``.

    Raises:
        ModelZooError: there is no such configuration.
    """
    return _find_config(name, ".yaml")


def get_config(name: str, trained: bool = False) -> CfgNode:
    """The configuration of a model.

    Args:
        name: as in :func:`get_config_file`.
        trained: set ``MODEL.WEIGHTS`` to the published weights, instead of the backbone that
            training starts from.

    Raises:
        ModelZooError: there is no such configuration, or no published weights.
    """
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.merge_from_file(get_config_file(name), allow_unsafe=False)
    if trained:
        cfg.MODEL.WEIGHTS = _find_weights(name.removesuffix(".yaml"))
    return cfg


def get_lazy_config(name: str, trained: bool = False) -> DictConfig:
    """The Python configuration of a model.

    Args:
        name: path in ``configs/lazy``, with or without ``.py``.
        trained: set ``train.init_checkpoint`` to the published weights.

    Raises:
        ModelZooError: there is no such configuration, or no published weights.
    """
    cfg = LazyConfig.load(_find_config(f"lazy/{name}", ".py"))
    if trained:
        cfg.train.init_checkpoint = _find_weights(name.removesuffix(".py"))
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model and load its weights, which are downloaded if necessary.

    Args:
        name, trained: as in :func:`get_config`.
        device: overrides the configuration's device, which is the CPU if there is no GPU.

    Returns:
        The model, in training mode.

    Raises:
        ModelZooError: as in :func:`get_config`, or the weights cannot be downloaded or loaded.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    elif not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    try:
        GACheckpointer(model, complete=trained).load(cfg.MODEL.WEIGHTS)
    except CheckpointError as error:
        raise ModelZooError(error) from error
    return model


def get_checkpoint_url(name: str) -> str:
    """The URL of a model's published weights.

    Raises:
        ModelZooError: there are none.
    """
    return find_file(name.removesuffix(".yaml")).url


def _find_weights(name: str) -> str:
    find_file(name)
    return ModelZooHandler.PREFIX + name


def _find_config(name: str, suffix: str) -> str:
    """The path of a file in the folder ``configs``."""
    files = {str(path.relative_to(_config_dir())) for path in _config_dir().rglob(f"*{suffix}")}
    file = name.removesuffix(suffix) + suffix
    if file not in files:
        raise ModelZooError(
            f"there is no configuration '{name}'; the published ones are {', '.join(list_names())}"
        )
    return str(_config_dir() / file)


def _config_dir() -> Path:
    """The folder ``configs`` of an installed package, or of a checkout without links."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"
