"""Lazy configs with narrow networks."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from omegaconf import DictConfig

from ga_detectron2.engine import load_config
from tests.runs import CONFIGS, NARROW, as_overrides


def narrow_backbone(config: str) -> Backbone:
    """The backbone of a YAML config with :data:`NARROW`'s sizes."""
    return build_backbone(load_config(str(CONFIGS / f"{config}.yaml"), as_overrides(NARROW)))


def narrow_lazy(cfg: DictConfig, config: str) -> DictConfig:
    """Set the sizes of a YAML config with :data:`NARROW` in a lazy config."""
    model = cfg.model
    model.backbone = L(narrow_backbone)(config=config)
    if "head" in model:
        model.head.input_shape = [ShapeSpec(channels=32)] * 5
        model.head.conv_dims = [32] * 4
        return cfg
    model.proposal_generator.head.in_channels = 32
    model.proposal_generator.post_nms_topk = (50, 20)
    if "roi_heads" in model:
        model.roi_heads.box_head.input_shape = ShapeSpec(channels=32, height=7, width=7)
        model.roi_heads.box_head.fc_dims = [32, 32]
        model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=32)
    return cfg
