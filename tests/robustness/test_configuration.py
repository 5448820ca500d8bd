"""Configurations of all kinds: a ConfigError that names the file or key, or a configuration."""

import contextlib
import math
from pathlib import Path
from unittest import mock

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.solver import build_lr_scheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.engine import GATrainer, check_run, load_config
from ga_detectron2.errors import ConfigError
from tests.robustness.examples import EXAMPLES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RIGHT = [
    *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ("ga_shapes_train",)),
    *("DATASETS.TEST", ("ga_shapes_val",), "MODEL.RETINANET.NUM_CLASSES", 5),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5),
]
NAN, INF = math.nan, math.inf


def refused(config: str, key: str, value: object) -> str:
    cfg = load_config(str(CONFIGS / f"{config}.yaml"), [*RIGHT, key, value])
    with pytest.raises(ConfigError) as error:
        check_run(cfg)
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.DETECTIONS_PER_IMAGE", -2),
        ("TEST.DETECTIONS_PER_IMAGE", 0),
        ("TEST.PROPOSAL_RECALL_LIMITS", []),
        ("TEST.PROPOSAL_RECALL_LIMITS", [100, -1]),
        ("SOLVER.BASE_LR", -1.0),
        ("SOLVER.BASE_LR", NAN),
        ("SOLVER.BASE_LR", INF),
        ("SOLVER.BASE_LR_END", -1.0),
        ("SOLVER.BASE_LR_END", NAN),
        ("SOLVER.BASE_LR_END", INF),
        ("SOLVER.BASE_LR_END", None),
        ("SOLVER.NUM_DECAYS", 0),
        ("SOLVER.MOMENTUM", 1.0),
        ("SOLVER.WEIGHT_DECAY", -1.0),
        ("SOLVER.GAMMA", 0.0),
        ("SOLVER.MAX_ITER", 0),
        ("SOLVER.WARMUP_ITERS", -1),
        ("SOLVER.WARMUP_FACTOR", NAN),
        ("SOLVER.WARMUP_METHOD", "none"),
        ("SOLVER.LR_SCHEDULER_NAME", "MultiStepLR"),
        ("SOLVER.IMS_PER_BATCH", 0),
        ("SOLVER.IMS_PER_BATCH", None),
        ("SOLVER.STEPS", None),
        ("SOLVER.STEPS", (5, 3)),
        ("SOLVER.STEPS", (0,)),
        ("SOLVER.STEPS", (3, 3)),
        ("SOLVER.CHECKPOINT_PERIOD", 0),
        ("SOLVER.CHECKPOINT_PERIOD", -1),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", None),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", -1.0),
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.MIN_SIZE_TRAIN", (-5,)),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "random"),
        ("INPUT.MAX_SIZE_TRAIN", 0),
        ("INPUT.MIN_SIZE_TEST", -1),
        ("INPUT.MAX_SIZE_TEST", 0),
        ("INPUT.FORMAT", "XYZ"),
        ("INPUT.RANDOM_FLIP", "diagonal"),
        ("MODEL.PIXEL_MEAN", None),
        ("MODEL.PIXEL_MEAN", [1.0]),
        ("MODEL.PIXEL_MEAN", [NAN, 1.0, 1.0]),
        ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0]),
        ("MODEL.DEVICE", "gpu"),
        ("MODEL.DEVICE", None),
        ("MODEL.META_ARCHITECTURE", "GARetinanet"),
        ("MODEL.BACKBONE.NAME", "resnet"),
        ("MODEL.FPN.OUT_CHANNELS", 0),
        ("MODEL.FPN.OUT_CHANNELS", -1),
        ("MODEL.RESNETS.DEPTH", 7),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 0),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", None),
        ("MODEL.RESNETS.NUM_GROUPS", 0),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False]),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "GARPN"),
        ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", -1),
        ("DATALOADER.NUM_WORKERS", -1),
        ("DATALOADER.SAMPLER_TRAIN", "Sampler"),
        ("DATASETS.TRAIN", (1,)),
        ("OUTPUT_DIR", ""),
    ],
)
def test_values_are_refused_by_their_key(key: str, value: object) -> None:
    message = refused("ga_rpn_R_50", key, value)
    assert message.startswith(key)
    assert " must be " in message
    assert "\n" not in message


def test_minus_one_is_all_detections_of_roi_heads_and_none_of_a_retinanet() -> None:
    cfg = load_config(
        str(CONFIGS / "ga_faster_R_50.yaml"), [*RIGHT, "TEST.DETECTIONS_PER_IMAGE", -1]
    )
    check_run(cfg)
    assert "at least 1" in refused("ga_retinanet_R_50", "TEST.DETECTIONS_PER_IMAGE", -1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", []),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", ["x"]),
        ("MODEL.ROI_HEADS.IOU_LABELS", [0]),
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", -1),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", NAN),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (0.5,)),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 0.0)),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", ""),
        ("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", NAN),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 0),
    ],
)
def test_values_of_box_heads(key: str, value: object) -> None:
    assert refused("ga_faster_R_50", key, value).startswith(f"{key} {value!r} must be ")
    # Nobody else reads them.
    check_run(load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), [*RIGHT, key, value]))


@pytest.mark.parametrize("key", ["VIS_PERIOD", "SOLVER.REFERENCE_WORLD_SIZE", "TEST.EVAL_PERIOD"])
def test_null_for_a_number(key: str) -> None:
    assert refused("ga_rpn_R_50", key, None).startswith(f"{key} None must be a number, such as 0")


def test_values_of_crops_and_ranges() -> None:
    def check(*overrides: object) -> None:
        check_run(load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), [*RIGHT, *overrides]))

    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE")
    check(*crop, "relative", "INPUT.CROP.SIZE", [0.5, 1.0])
    check(*crop, "absolute", "INPUT.CROP.SIZE", [50, 60])
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\.SIZE \[2, 1\] must be .*shares"):
        check(*crop, "relative", "INPUT.CROP.SIZE", [2, 1])
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\.SIZE None must be .*shares"):
        check(*crop, "relative", "INPUT.CROP.SIZE", None)
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\.TYPE 'rel' must be one of"):
        check(*crop, "rel")
    ranges = ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN")
    check(*ranges, (480, 960))
    for sizes in ((480,), (960, 480)):
        with pytest.raises(ConfigError, match=r"INPUT\.MIN_SIZE_TRAIN .* must be the least and"):
            check(*ranges, sizes)


def test_the_end_of_a_cosine_is_not_above_its_beginning() -> None:
    cosine = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", 0.1)
    cfg = load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), [*RIGHT, *cosine])
    for end in (0.0, 0.1):
        cfg.SOLVER.BASE_LR_END = end
        check_run(cfg)
        build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1)], lr=0.1))
    cfg.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR_END = 0.0
    with pytest.raises(ConfigError, match=r"BASE_LR 0\.0 must be above 0 for WarmupCosineLR"):
        check_run(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    check_run(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR = "WarmupCosineLR", 0.1
    cfg.SOLVER.BASE_LR_END = 0.2
    with pytest.raises(ConfigError, match=r"BASE_LR_END 0\.2 must be from 0 to SOLVER\.BASE_LR, 0"):
        check_run(cfg)


@pytest.mark.parametrize("error", [TypeError("x < 0"), RuntimeError("size [0, 64]"), KeyError(7)])
def test_what_torch_refuses_is_told(error: Exception) -> None:
    """A model of your own may take any value for right."""
    cfg = load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), RIGHT)
    with (
        mock.patch.object(DefaultTrainer, "build_model", side_effect=error),
        pytest.raises(ConfigError, match=r"the model cannot be built \(\w*: .*\)"),
    ):
        GATrainer.build_model(cfg)


def test_only_training_looks_at_the_keys_of_training() -> None:
    cfg = load_config(str(CONFIGS / "ga_rpn_R_50.yaml"), [*RIGHT, "SOLVER.BASE_LR", -1.0])
    check_run(cfg, eval_only=True)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"null", "is empty"),
        (b"- 1\n", "holds a list"),
        (b"5", "holds a int"),
        (b"word", "holds a str"),
        (b"\xff\xfe\x00", "decode"),
        (b"MODEL:\x00", "special characters"),
        (b"1: 2\n", "the key 1 must be a name"),
        (b"MODEL: {1: 2}\n", "the key 1 below MODEL must be a name"),
        (b"MODEL:\n", "MODEL has no value"),
        (b"MODEL: [1]\n", "Type mismatch"),
        (b'_BASE_: "mine.yaml"\n', "is based on this file itself"),
        (b"_BASE_: 3\n", "_BASE_ 3 must be the path"),
        (b'_BASE_: "\\uD800"\n', "must be the path"),
        (b'_BASE_: "\\0"\n', "must be the path"),
        (b"VERSION: 7\n", "VERSION 7 must be 2"),
        (b"VERSION: two\n", "VERSION 'two' must be 2"),
        (b"[" * 3000, "nested too deeply"),
        (b"&a MODEL: &b\n  X: *b\n", "too deeply"),
        (BOMB.encode(), "stands for more than 100000 values"),
        (b"SEED: !!python/object/apply:os.getpid []\n", "python/object/apply"),
    ],
    ids=repr,
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_files_based_on_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: [a.yaml]\n")
    with pytest.raises(ConfigError, match=r"b\.yaml: _BASE_ .*a\.yaml is based on this file"):
        load_config(str(tmp_path / "a.yaml"))


def keys_of(node: CfgNode, prefix: str = "") -> list[str]:
    found = []
    for name, value in node.items():
        found += (
            keys_of(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else [prefix + name]
        )
    return found


KEYS = [
    key
    for key in keys_of(load_config(str(CONFIGS / "ga_rpn_R_50.yaml")))
    if not key.startswith(("DATASETS.", "MODEL.SEM_SEG", "MODEL.PANOPTIC"))
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "cpu", "none", "[1, 2", "{}", "\x00", "1e400"])
    | st.text(max_size=8)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.lists(SCALARS, max_size=3).map(tuple)


@pytest.mark.parametrize("config", ["ga_faster_R_50", "ga_retinanet_R_50"])
@settings(max_examples=EXAMPLES)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_any_value_of_any_key(config: str, values: dict) -> None:
    flat = [part for pair in values.items() for part in pair]
    with contextlib.suppress(ConfigError):
        check_run(load_config(str(CONFIGS / f"{config}.yaml"), [*RIGHT, *flat]))


@pytest.mark.parametrize("config", ["ga_faster_R_50", "ga_retinanet_R_50"])
def test_null_for_every_key(config: str) -> None:
    # yacs takes it for a value of any type.
    enabled = ("INPUT.CROP.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    right = load_config(str(CONFIGS / f"{config}.yaml"), [*RIGHT, *enabled])
    for key in KEYS:
        cfg = right.clone()
        cfg.merge_from_list([key, None])
        with contextlib.suppress(ConfigError):
            check_run(cfg)


@settings(max_examples=EXAMPLES)
@given(
    st.binary(max_size=60)
    | st.recursive(
        SCALARS.filter(lambda x: not isinstance(x, str)) | st.sampled_from(["MODEL", "a"]),
        lambda x: (
            st.dictionaries(
                st.sampled_from(
                    ["MODEL", "SOLVER", "_BASE_", "VERSION", "RPN", "TEST", "x", "SEED"]
                ),
                x,
            )
            | st.lists(x, max_size=3)
        ),
        max_leaves=8,
    ).map(lambda x: repr(x).replace("None", "null").encode())
)
def test_any_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load_config(str(path))
