"""A model with trained weights, as a command line names it."""

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.errors import CheckpointError, ConfigError
from ga_detectron2.modeling.compilation import compile_backbone

from .run_config import check_run, load_config, use_available_device
from .trainer import GATrainer

__all__ = [
    "TrainedModel",
    "build_inference_model",
    "find_weights",
    "load_trained_model",
    "read_trained_config",
]

logger = logging.getLogger(__name__)

# What a training starts from, and no trained model.
_BACKBONE = re.compile(r".*/ImageNetPretrained/.*|ga://resn.*")


class TrainedModel(NamedTuple):
    """Attributes: cfg: with ``MODEL.WEIGHTS`` as loaded; model: in evaluation; note: to log."""

    cfg: CfgNode
    model: nn.Module
    note: str | None


def load_trained_model(
    config_file: str,
    overrides: Sequence[str] = (),
    datasets: Sequence[str] = (),
    has_data: bool = True,
) -> TrainedModel:
    """Build the model of a configuration and load its weights, see :func:`find_weights`.

    Args:
        config_file, overrides, datasets: as of :func:`.load_config`.
        has_data: whether ``DATASETS.TEST`` is needed, and is to be checked.

    Raises:
        ConfigError: the configuration is wrong, or no weights are found.
        CheckpointError: the weights cannot be loaded.
    """
    cfg, note = read_trained_config(config_file, overrides, datasets)
    if has_data:
        check_run(cfg, eval_only=True)
    model = build_inference_model(cfg)
    GACheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    return TrainedModel(cfg, model, note)


def build_inference_model(cfg: CfgNode) -> nn.Module:
    """A model without its weights, in evaluation; compiled where ``TEST.COMPILE_BACKBONE`` asks.

    Raises:
        ConfigError: it cannot be built, or nothing can be compiled here.
    """
    model = GATrainer.build_model(cfg).eval()
    if cfg.TEST.get("COMPILE_BACKBONE", False):
        try:
            compile_backbone(model)
        except ValueError as error:
            raise ConfigError(error) from error
        logger.info("The backbone is compiled at the first images, which takes a minute or more.")
    return model


def read_trained_config(
    config_file: str, overrides: Sequence[str] = (), datasets: Sequence[str] = ()
) -> tuple[CfgNode, str | None]:
    """The configuration of :func:`load_trained_model`, and a note to log on its device.

    Raises:
        ConfigError: it is wrong, or no weights are found.
    """
    cfg = load_config(config_file, overrides, datasets)
    note = use_available_device(cfg)
    cfg.MODEL.WEIGHTS = find_weights(cfg, overrides)
    return cfg, note


def find_weights(cfg: CfgNode, overrides: Sequence[str] = ()) -> str:
    """The weights that a user means: those named on the command line, or the last of the run.

    Args:
        cfg: complete.
        overrides: keys and values in turn, as given on the command line.

    Returns:
        ``MODEL.WEIGHTS`` if it is among ``overrides``, or else the last checkpoint in
        ``OUTPUT_DIR``, or else the ``MODEL.WEIGHTS`` of the configuration file.

    Raises:
        ConfigError: there are none, or only damaged ones, or only those of a backbone that a
            training starts from.
    """
    weights = str(cfg.MODEL.WEIGHTS)
    if weights and "MODEL.WEIGHTS" in overrides[::2]:
        return weights
    try:
        last = GACheckpointer(nn.Identity(), cfg.OUTPUT_DIR).find_last()
    except CheckpointError as error:
        raise ConfigError(f"{error}; set MODEL.WEIGHTS path/to/model_final.pth") from error
    if last:
        return last
    if weights and not _BACKBONE.fullmatch(weights):
        return weights
    found = f"a backbone alone ({weights})" if weights else "empty"
    raise ConfigError(
        f"there are no weights: OUTPUT_DIR '{cfg.OUTPUT_DIR}' holds no checkpoint and "
        f"MODEL.WEIGHTS is {found}; train first, or set MODEL.WEIGHTS path/to/model_final.pth"
    )
