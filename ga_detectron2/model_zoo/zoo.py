"""Models by their names, like ``detectron2.model_zoo``."""

from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from ga_detectron2.errors import ModelZooError

from ..checkpoint import GACheckpointer
from ..config import add_ga_config
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
    """Return the names of all configurations."""
    return sorted(path.stem for path in _config_dir().glob("ga_*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of a configuration.

    Args:
        name: such as ``ga_faster_R_50`` or ``recipes/ga_mask_R_50``, with or without ``.yaml``.

    Raises:
        ModelZooError: (a RuntimeError) if there is no such configuration.
    """
    name = name.removesuffix(".yaml")
    if name not in list_names() and name not in _recipes():
        raise ModelZooError(f"there is no model '{name}', only {', '.join(list_names())}")
    return str(_config_dir() / f"{name}.yaml")


def get_config(name: str, trained: bool = False) -> CfgNode:
    """Return the configuration of a model.

    Args:
        name: as in :func:`get_config_file`.
        trained: let ``MODEL.WEIGHTS`` be the published weights, and not those of a backbone that
            training begins with.

    Raises:
        ModelZooError: if there is no such configuration, or there are no published weights.
    """
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.merge_from_file(get_config_file(name), allow_unsafe=False)
    if trained:
        get_checkpoint_url(name)
        cfg.MODEL.WEIGHTS = ModelZooHandler.PREFIX + name.removesuffix(".yaml")
    return cfg


def get_lazy_config(name: str, trained: bool = False) -> DictConfig:
    """Return the Python configuration of a model, of those in ``configs/lazy``.

    Args:
        name: such as ``ga_faster_R_50``, with or without ``.py``.
        trained: let ``train.init_checkpoint`` be the published weights.

    Raises:
        ModelZooError: if there is no such configuration, or there are no published weights.
    """
    name = name.removesuffix(".py")
    files = {path.stem: path for path in (_config_dir() / "lazy").glob("*.py")}
    if name not in files:
        raise ModelZooError(f"there is no lazy config '{name}', only {', '.join(sorted(files))}")
    cfg = LazyConfig.load(str(files[name]))
    if trained:
        get_checkpoint_url(name)
        cfg.train.init_checkpoint = ModelZooHandler.PREFIX + name
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model and load its weights, which are downloaded where they are not in the cache.

    Args:
        name, trained: as in :func:`get_config`.
        device: instead of the configuration's; the CPU where there is no GPU.

    Returns:
        The model, in training mode.

    Raises:
        ModelZooError: as :func:`get_config`, and where the weights cannot be downloaded.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    elif not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    GACheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def get_checkpoint_url(name: str) -> str:
    """Return the address at which the weights of a model were published.

    Raises:
        ModelZooError: (a RuntimeError) if there are none.
    """
    return find_file(name.removesuffix(".yaml")).url


def _recipes() -> list[str]:
    return [f"recipes/{path.stem}" for path in (_config_dir() / "recipes").glob("*.yaml")]


def _config_dir() -> Path:
    """The folder ``configs``: in this package, or in a checkout where links do not work."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"
