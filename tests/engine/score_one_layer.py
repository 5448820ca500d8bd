"""tools/train_net.py --eval-only with a backbone of one layer, which a compiler is soon done with.

Saves random weights to MODEL.WEIGHTS first.
"""

import sys

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from torch import Tensor, nn

from tests.scripts import load_script

STRIDES = (4, 8, 16, 32, 64)


@BACKBONE_REGISTRY.register()
class OneLayer(Backbone):
    size_divisibility = 64

    def __init__(self, _cfg: object, _input_shape: object):
        super().__init__()
        self.layer = nn.Conv2d(3, 32, 4, stride=4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.layer(images).relu()
        return {f"p{i}": x[:, :, :: s // 4, :: s // 4] for i, s in enumerate(STRIDES, 2)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"p{i}": ShapeSpec(channels=32, stride=s) for i, s in enumerate(STRIDES, 2)}


if __name__ == "__main__":
    tool = load_script("train_net")
    args = tool.parse_args(sys.argv[1:])
    cfg = tool.prepare(args).cfg
    state = build_model(cfg).state_dict()
    torch.save({"model": state, "__author__": "test"}, cfg.MODEL.WEIGHTS)
    tool.main(sys.argv[1:])
