"""``use_guided_anchoring``: published settings on other configurations, and nothing else."""

from pathlib import Path

import pytest
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from ga_detectron2 import add_ga_config, use_guided_anchoring
from ga_detectron2.errors import ConfigError
from ga_detectron2.modeling import GARetinaNet, GuidedAnchorRPN
from tests.runs import CONFIGS

MAY_CHANGE = ("MODEL.GUIDED_ANCHOR.", "MODEL.RPN.", "MODEL.RETINANET.")
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
]


def values_of(node: CfgNode, prefix: str = "") -> dict:
    values = {}
    for key, value in node.items():
        is_node = isinstance(value, CfgNode)
        values |= values_of(value, f"{prefix}{key}.") if is_node else {prefix + key: value}
    return values


def read(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(name))
    return cfg


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "Base-GARPN.yaml"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "Base-GAFasterRCNN.yaml"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "Base-GAFasterRCNN.yaml"),
        ("COCO-Detection/rpn_R_50_C4_1x.yaml", "Base-GARPN.yaml"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "Base-GAFasterRCNN.yaml"),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "Base-GARetinaNet.yaml"),
    ],
)
def test_published_settings_and_no_other_change(name: str, base: str) -> None:
    cfg = read(name)
    add_ga_config(cfg)
    before = values_of(cfg)
    use_guided_anchoring(cfg)
    published = get_cfg()
    add_ga_config(published)
    published.merge_from_file(str(CONFIGS / base))
    after, published = values_of(cfg), values_of(published)
    changed = {key for key, value in after.items() if before.get(key) != value}
    generator = ("MODEL.META_ARCHITECTURE" if "retinanet" in name
                 else "MODEL.PROPOSAL_GENERATOR.NAME")  # fmt: skip
    assert generator in changed
    assert all(key.startswith(MAY_CHANGE) or key == generator for key in changed), changed
    section = "MODEL.RETINANET." if "retinanet" in name else "MODEL.RPN."
    for key in after:
        if key.startswith(("MODEL.GUIDED_ANCHOR.", section)) and not key.endswith("IN_FEATURES"):
            assert after[key] == pytest.approx(published[key]), key
    cfg.merge_from_list(SMALL)
    model = build_model(cfg)
    expected = GARetinaNet if "retinanet" in name else GuidedAnchorRPN
    assert any(isinstance(m, expected) for m in model.modules())


def test_own_settings_of_guided_anchors_are_kept() -> None:
    cfg = read("COCO-Detection/rpn_R_50_FPN_1x.yaml")
    add_ga_config(cfg)
    cfg.MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH = 0.05
    use_guided_anchoring(cfg)
    assert cfg.MODEL.GUIDED_ANCHOR.LOC_FILTER_THRESH == 0.05


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], "rotated boxes"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], "no anchors to guide"),
    ],
)
def test_models_without_anchors_to_guide_are_refused(override: list, words: str) -> None:
    cfg = read("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    cfg.merge_from_list(override)
    with pytest.raises(ConfigError, match=words):
        use_guided_anchoring(cfg)


def test_retinanet_with_the_defaults_of_ga_rpn_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = read("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    cfg.merge_from_list([*SMALL, "MODEL.META_ARCHITECTURE", "GARetinaNet"])
    with pytest.raises(ValueError, match=r"use_guided_anchoring\(cfg\), or set OCTAVE_BASE_SCALE"):
        build_model(cfg)
    cfg.MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE = 4
    build_model(cfg)
    assert "GA-RPN for SHAPE_REG_WEIGHTS, IOU_THRESHOLDS, MIN_POSITIVE_IOU;" in caplog.text
    caplog.clear()
    use_guided_anchoring(cfg)
    settings = build_model(cfg).guided_anchoring
    assert [s * settings.base_scale for s in settings.strides] == [32, 64, 128, 256, 512]
    assert not caplog.records


def test_get_cfg_has_the_keys_and_add_ga_config_keeps_their_values() -> None:
    cfg = get_cfg()  # as in detectron2's own tools
    cfg.merge_from_file(str(CONFIGS / "ga_retinanet_R_50.yaml"))
    add_ga_config(cfg)
    assert cfg.MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE == 4
    assert get_cfg().MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE == 8


@pytest.mark.parametrize("value", [6.5, "6.5", 4, "4"])
def test_base_scale_is_an_integer_or_a_float(value: object, tmp_path: Path) -> None:
    cfg = get_cfg()
    add_ga_config(cfg)
    for _ in range(2):
        cfg.merge_from_list(["MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE", value])
        assert float(value) == cfg.MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE
    (tmp_path / "x.yaml").write_text("MODEL:\n  GUIDED_ANCHOR:\n    OCTAVE_BASE_SCALE: 7\n")
    cfg.merge_from_file(str(tmp_path / "x.yaml"))
    assert cfg.MODEL.GUIDED_ANCHOR.OCTAVE_BASE_SCALE == 7
    # Other keys keep their types.
    with pytest.raises(ValueError, match="Type mismatch"):
        cfg.merge_from_list(["MODEL.GUIDED_ANCHOR.DEFORM_GROUPS", 4.0])
