"""Common mistakes in configurations, reported in one line before training starts."""

import contextlib
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.engine import GATrainer, check_run, load_config
from ga_detectron2.errors import GAError
from tests.robustness.examples import EXAMPLES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FASTER = str(CONFIGS / "small" / "ga_faster_R_18.yaml")
RIGHT = [
    *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ("ga_shapes_train",)),
    *("DATASETS.TEST", ("ga_shapes_val",), "MODEL.RETINANET.NUM_CLASSES", 5),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 5),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a mapping"),
        ("- 1\n", "is not a mapping"),
        ("MODEL: [\n", "expected"),
        ("MODEL: [1]\n", "Type mismatch"),
        ("MODEL:\n  GUIDED_ANCOR:\n    CENTER_RATIO: 0.3\n", "did you mean MODEL.GUIDED_ANCHOR"),
        ("SOLVER:\n  BASE_LR: fast\n", "SOLVER.BASE_LR"),
        ("_BASE_: absent.yaml\n", "absent.yaml"),
        ("_BASE_: mine.yaml\n", "_BASE_ refers back"),
        ("SEED: !!python/object/apply:os.getpid []\n", "python/object/apply"),
    ],
)
def test_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(GAError) as error:
        load_config(str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with contextlib.suppress(GAError):
        assert isinstance(load_config(str(path)), CfgNode)


def test_samplers_and_depths_of_detectron2_are_not_restricted() -> None:
    """Values that detectron2 may know or come to know are left to it."""
    keys = ["DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "MODEL.RESNETS.DEPTH", 26]
    cfg = load_config(FASTER, [*RIGHT, *keys])
    check_run(cfg)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError(), "AssertionError in 'raise error'"),
        (TypeError("x < 0"), "TypeError: x < 0"),
        (KeyError("res9"), "KeyError: res9"),
        (ValueError("MODEL.X 1 must be 2"), "MODEL.X 1 must be 2"),
    ],
)
def test_error_of_a_model_of_ones_own_is_reported(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def build_model(_cfg: CfgNode) -> None:
        raise error

    monkeypatch.setattr("detectron2.engine.defaults.build_model", build_model)
    with pytest.raises(GAError) as raised:
        GATrainer.build_model(load_config(FASTER))
    assert str(raised.value) == f"the model cannot be built: {message}"
