"""The published models: configurations and weights by name, as in ``detectron2.model_zoo``.

Importing this package registers ``ga://NAME`` with detectron2's ``PathManager``.
"""

from ga_detectron2.errors import ModelZooError

from .handler import register_handler
from .published import IMAGENET_BACKBONES, PUBLISHED_MODELS, PublishedModel
from .zoo import (
    get,
    get_checkpoint_url,
    get_config,
    get_config_file,
    get_lazy_config,
    list_names,
)

__all__ = [
    "IMAGENET_BACKBONES",
    "PUBLISHED_MODELS",
    "ModelZooError",
    "PublishedModel",
    "get",
    "get_checkpoint_url",
    "get_config",
    "get_config_file",
    "get_lazy_config",
    "list_names",
]

register_handler()
