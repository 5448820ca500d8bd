"""Backbones of timm (PyTorch Image Models) with a feature pyramid."""

import difflib
import logging
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from .backbone import LastLevelP6P7WithoutReLU

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """Feature maps of a convolutional network or hierarchical transformer of timm.

    The output for stride s is named ``stride{s}``.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = False,
        checkpoint: str = "",
        strides: Sequence[int] = (4, 8, 16, 32),
        freeze_at: int = 0,
        frozen_bn: bool = True,
    ):
        """
        Args:
            name: timm's model name, such as "resnet50d" or "convnext_tiny.fb_in1k".
            pretrained: whether timm downloads its weights of this name.
            checkpoint: a file of weights to use instead, written by timm or torch.save.
            strides: strides of the feature maps in pixels, in ascending order.
            freeze_at: as in detectron2's ResNet: 1 freezes the stem, 2 also the stage of stride 4,
                k the stage of stride 2^k.
            frozen_bn: whether batch norms have fixed statistics and affine parameters.

        Raises:
            ValueError: timm has no such model, the model has no feature map of a stride, or the
                file is of another model.
        """
        super().__init__()
        timm = import_timm()
        self.model: Any = _create_model(timm, name, pretrained and not checkpoint)
        if checkpoint:
            load_timm_weights(self.model, checkpoint)
        info = list(self.model.feature_info)
        last = {f["reduction"]: i for i, f in enumerate(info)}
        missing = [s for s in strides if s not in last]
        if missing:
            raise ValueError(
                f"MODEL.TIMM.FEATURES: '{name}' has no feature map of stride "
                f"{', '.join(map(str, missing))}, only of {', '.join(map(str, sorted(last)))}"
            )
        self.indices = [last[s] for s in strides]
        self.model.prune_intermediate_layers(self.indices, prune_head=True)
        _freeze(self.model, info, freeze_at)
        if frozen_bn:
            self.model = timm.layers.freeze_batch_norm_2d(self.model)
        # On a CPU, EfficientNet and MobileNet take a quarter less time in this format, ResNet,
        # ConvNeXt and Swin about the same; GroupNorm can take many times as long.
        self.channels_last = not any(isinstance(m, nn.GroupNorm) for m in self.model.modules())
        self._out_features = [f"stride{s}" for s in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = {
            f: info[i]["num_chs"] for f, i in zip(self._out_features, self.indices, strict=True)
        }

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Create from ``cfg.MODEL.TIMM``; warns of other pre-processing than the weights expect."""
        node = cfg.MODEL.TIMM
        if input_shape.channels != 3:
            raise ValueError(
                f"INPUT.FORMAT {cfg.INPUT.FORMAT}: timm's backbones take 3 channels, such as RGB"
            )
        # Other files of MODEL.WEIGHTS may be models trained with a pre-processing of their own.
        if node.PRETRAINED or node.CHECKPOINT or cfg.MODEL.WEIGHTS.startswith("ga://"):
            _compare_preprocessing(cfg, node.NAME)
        return {
            "name": node.NAME,
            "pretrained": node.PRETRAINED,
            "checkpoint": node.CHECKPOINT,
            "strides": node.FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "frozen_bn": node.FROZEN_BN,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) images to (N, C, H / s, W / s) by name."""
        on_cpu = x.device.type == "cpu"
        channels_last = self.channels_last and on_cpu and not torch.jit.is_tracing()
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        maps = self.model.forward_intermediates(
            x, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        if channels_last:
            maps = [m.contiguous() for m in maps]  # detectron2's keypoint loss calls view()
        return dict(zip(self._out_features, maps, strict=True))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """:class:`TimmBackbone` with a feature pyramid from P2 to P6, if its strides start at 4."""
    return _build_pyramid(cfg, TimmBackbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_ga_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """:class:`TimmBackbone` with a feature pyramid from P3 to P7, for ``GARetinaNet``."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.FEATURES = [s for s in cfg.MODEL.TIMM.FEATURES if s >= 8]
    bottom_up = TimmBackbone(cfg, input_shape)
    name, shape = list(bottom_up.output_shape().items())[-1]
    top_block = LastLevelP6P7WithoutReLU(shape.channels, cfg.MODEL.FPN.OUT_CHANNELS, name)
    return _build_pyramid(cfg, bottom_up, top_block)


def _build_pyramid(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def import_timm() -> ModuleType:
    """timm, an optional dependency.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise ImportError("timm's backbones need timm: pip install timm") from error
    return timm


def _create_model(timm: ModuleType, name: str, pretrained: bool) -> Any:
    if not timm.is_model(name):
        known = timm.list_models() + timm.list_pretrained()
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"MODEL.TIMM.NAME: timm {timm.__version__} has no model '{name}'{hint}")
    try:
        # Transformers with windows take images of any size if they are asked to.
        model = timm.create_model(name, pretrained=pretrained, strict_img_size=False)
    except TypeError:
        model = timm.create_model(name, pretrained=pretrained)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"MODEL.TIMM.NAME: timm's '{name}' does not return feature maps")
    return model


def load_timm_weights(model: Any, checkpoint: str) -> None:
    """Load a file of the same architecture into a model of timm; the classifier may differ.

    Args:
        model: result of ``timm.create_model``.
        checkpoint: a path for detectron2's PathManager, to a file of timm or torch.save. If it has
            other names than timm, tensors are matched by their order.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    path = PathManager.get_local_path(checkpoint)
    state = import_timm().models.load_state_dict(path, weights_only=True)
    ours = model.state_dict()
    if not ours.keys() & state.keys():
        state = _rename_by_order(ours, state)
    head = tuple(f"{c}." for c in _classifiers(model))
    fits = {n: t for n, t in state.items() if n in ours and t.shape == ours[n].shape}
    learned = [*dict(model.named_parameters()), *(n for n in ours if "running_" in n)]
    for name in learned:
        if name.startswith(head) or name in fits:
            continue
        if name not in state:
            raise ValueError(f"MODEL.TIMM.CHECKPOINT {checkpoint}: there is no tensor '{name}'")
        raise ValueError(
            f"MODEL.TIMM.CHECKPOINT {checkpoint}: '{name}' has the shape "
            f"{tuple(state[name].shape)}, in this model {tuple(ours[name].shape)}"
        )
    model.load_state_dict(fits, strict=False)


def _rename_by_order(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Match a checkpoint with different names by tensor order, if all shapes agree.

    Counters of batches, which older files lack, are left out.
    """
    names = [n for n in ours if not n.endswith("num_batches_tracked")]
    tensors = [t for n, t in theirs.items() if not n.endswith("num_batches_tracked")]
    if [ours[n].shape for n in names] != [torch.Size(t.shape) for t in tensors]:
        return {}
    logger.warning("The tensors have other names than timm's; they are matched by their order")
    return dict(zip(names, tensors, strict=True))


def _classifiers(model: Any) -> Sequence[str]:
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _freeze(model: nn.Module, info: Sequence[dict[str, Any]], freeze_at: int) -> None:
    """Freeze what comes before the stage of stride 4 (1), or all up to that of 2^freeze_at."""
    if freeze_at < 1:
        return
    last = freeze_at > 1
    module = next((f["module"] for f in info if f["reduction"] == max(4, 2**freeze_at)), None)
    if module is None:
        raise ValueError(f"MODEL.BACKBONE.FREEZE_AT {freeze_at}: there is no such stage")
    reached = False
    for name, parameter in model.named_parameters():
        inside = f"{name}.".startswith(f"{module}.")
        if (reached and not inside) or (inside and not last):
            return
        reached |= inside
        parameter.requires_grad = False


def _compare_preprocessing(cfg: CfgNode, name: str) -> None:
    """Warn of pixel means, deviations or an order of channels other than the weights'."""
    theirs = import_timm().get_pretrained_cfg(name)
    if theirs is None:
        return  # no such model, or one without weights
    for key, right in (
        ("MODEL.PIXEL_MEAN", [round(255 * x, 3) for x in theirs.mean]),
        ("MODEL.PIXEL_STD", [round(255 * x, 3) for x in theirs.std]),
        ("INPUT.FORMAT", "RGB"),
    ):
        section, _, leaf = key.partition(".")
        ours = cfg[section][leaf]
        same = ours == right if isinstance(right, str) else _are_close(ours, right)
        if not same:
            logger.warning(f"{key} is {ours}, but the weights of '{name}' expect {right}")


def _are_close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 0.1 for x, y in zip(a, b, strict=True))
