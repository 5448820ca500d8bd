"""The backbone of the soak and of the long run: as cheap as a backbone with weights can be."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F


@BACKBONE_REGISTRY.register()
class PooledImage(Backbone):
    """Each of five levels is the image, pooled, through one 1x1 convolution.

    The number of channels is ``MODEL.FPN.OUT_CHANNELS``; strides are those of the model's usual
    pyramid.
    """

    def __init__(self, cfg: CfgNode, _input_shape: ShapeSpec):
        super().__init__()
        self.channels = cfg.MODEL.FPN.OUT_CHANNELS
        first = 3 if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet" else 2
        self.strides = {f"p{i}": 2**i for i in range(first, first + 5)}
        self.layer = nn.Conv2d(3, self.channels, 1)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides by the names of the levels."""
        return {k: ShapeSpec(channels=self.channels, stride=s) for k, s in self.strides.items()}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Levels by name for images (N, 3, H, W)."""
        return {
            k: self.layer(F.avg_pool2d(images, s, ceil_mode=True)) for k, s in self.strides.items()
        }
