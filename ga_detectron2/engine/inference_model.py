"""Models with trained weights, for inference."""

import logging
import re
from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import nn

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.errors import CheckpointError, ConfigError
from ga_detectron2.modeling.compilation import compile_backbone

from .run_config import load_config, use_available_device
from .trainer import GATrainer

__all__ = ["find_weights", "load_inference_model", "read_inference_config"]

logger = logging.getLogger(__name__)

_PRETRAINED_BACKBONE = re.compile(r".*/ImageNetPretrained/.*|ga://(?:resn|efficientnet).*")
"""Weights that training starts from; not a trained model."""


def read_inference_config(
    config_file: str, overrides: Sequence[str] = (), datasets: Sequence[str] = ()
) -> CfgNode:
    """Read a configuration and choose its device and weights.

    Args:
        config_file, overrides, datasets: see :func:`.load_config`.

    Returns:
        a configuration whose ``MODEL.DEVICE`` is available and whose ``MODEL.WEIGHTS`` is the
        result of :func:`find_weights`.

    Raises:
        ConfigError: the configuration is wrong, or there are no weights.
    """
    cfg = load_config(config_file, overrides, datasets)
    note = use_available_device(cfg)
    if note:
        logger.warning(note)
    cfg.MODEL.WEIGHTS = find_weights(cfg, overrides)
    return cfg


def load_inference_model(cfg: CfgNode) -> nn.Module:
    """Build the model of ``cfg`` and load ``MODEL.WEIGHTS``.

    Returns:
        the model in evaluation mode, on ``MODEL.DEVICE``; its backbone is compiled if
        ``TEST.COMPILE_BACKBONE`` is set.

    Raises:
        ConfigError: the model cannot be built or compiled.
        CheckpointError: the weights cannot be loaded, or lack a tensor of the model.
    """
    model = GATrainer.build_model(cfg).eval()
    if cfg.TEST.get("COMPILE_BACKBONE", False):
        try:
            compile_backbone(model)
        except ValueError as error:
            raise ConfigError(error) from error
        logger.info("The backbone is compiled with the first images, which takes a minute or more.")
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: set MODEL.WEIGHTS path/to/model_final.pth")
    GACheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    return model


def find_weights(cfg: CfgNode, overrides: Sequence[str] = ()) -> str:
    """Choose the weights for inference.

    Args:
        cfg: complete configuration.
        overrides: keys and values of the command line.

    Returns:
        ``MODEL.WEIGHTS`` if it is in ``overrides``, else the last checkpoint in ``OUTPUT_DIR``,
        else ``MODEL.WEIGHTS`` of the configuration file.

    Raises:
        ConfigError: there are none, only damaged ones, or only those of a pretrained backbone.
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
    if weights and not _PRETRAINED_BACKBONE.fullmatch(weights):
        return weights
    found = f"a backbone alone ({weights})" if weights else "empty"
    raise ConfigError(
        f"there are no weights: OUTPUT_DIR '{cfg.OUTPUT_DIR}' holds no checkpoint and "
        f"MODEL.WEIGHTS is {found}; train first, or set MODEL.WEIGHTS path/to/model_final.pth"
    )
