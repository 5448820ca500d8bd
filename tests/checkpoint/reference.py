"""Reference models: names and shapes of all their tensors, and which configuration is theirs."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from detectron2.modeling import build_model

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"

SHAPES: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "state_dicts.json.gz").read_bytes())
)

_METHODS = {
    "ga-fast-rcnn": "ga_fast",
    "ga-faster-rcnn": "ga_faster",
    "ga-retinanet": "ga_retinanet",
    "ga-rpn": "ga_rpn",
}
_BACKBONES = {
    "r50-caffe": "R_50",
    "r50": "R_50",
    "r101-caffe": "R_101",
    "x101-32x4d": "X_101_32x4d",
    "x101-64x4d": "X_101_64x4d",
}


# An eighth of the usual channels, so that files are small: as overrides of a configuration.
NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "32"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "32"),
]


def config_of(name: str) -> Path:
    """The configuration of a reference model."""
    method, backbone, *rest = name.split("_")
    multi_scale = "_2x_ms" if rest[-1] == "ms-2x" else ""
    return CONFIGS / f"{_METHODS[method]}_{_BACKBONES[backbone]}{multi_scale}.yaml"


def build_shapes(config: Path, *overrides: str) -> dict[str, torch.Tensor]:
    """The state of a configuration's model, without memory behind its tensors."""
    with torch.device("meta"):
        model = build_model(load_config(str(config), ["MODEL.DEVICE", "meta", *overrides]))
    return model.state_dict()


def make_shapes(name: str) -> dict[str, torch.Tensor]:
    """What a reference model's file holds, without memory behind the tensors."""
    return {k: torch.empty(shape, device="meta") for k, shape in SHAPES[name].items()}


def make_narrow(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Random tensors by their names; what has 64, 128, 256, ... channels has an eighth of them."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        shape = [n // 8 if n >= 64 and n.bit_count() == 1 else n for n in shape]
        is_count = name.endswith("num_batches_tracked")
        tensors[name] = torch.tensor(0) if is_count else torch.randn(shape, generator=generator)
    return tensors


def make_imagenet(make: Callable[..., torch.nn.Module]) -> dict[str, torch.Tensor]:
    """What torchvision's file of such a network holds."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in make(weights=None).state_dict().items()}
    return make_narrow(shapes)
