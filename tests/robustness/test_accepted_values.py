"""What ``check_run`` accepts also trains for a step and infers, or is refused by its key."""

import functools
import math
from collections.abc import Iterator
from operator import getitem
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.engine import GATrainer, check_run, load_config
from ga_detectron2.errors import ConfigError, DataError
from tests.engine.conftest import CONFIGS, tiny_dataset  # noqa: F401 - a fixture
from tests.robustness.examples import EXAMPLES
from tests.robustness.test_configuration import keys_of

# Not ga_tiny, which other tests of this process may have registered from another folder.
DATASET = "ga_accepted"
MODELS = ["small/ga_rpn_R_18", "small/ga_retinanet_R_18", "quickstart_ga_faster_R_18"]
# As narrow as feature adaption's four groups allow, on images of 96 x 64 pixels.
NARROW = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
    *("MODEL.RETINANET.NORM", "", "MODEL.RETINANET.NUM_CLASSES", 2),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 2, "TEST.EVAL_PERIOD", 0),
    *("DATASETS.TRAIN", (DATASET,), "DATASETS.TEST", (DATASET,), "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2),
    *("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "SEED", 1),
]
# They need other data, more processes, a GPU, or minutes.
LEFT_OUT = (
    *("DATASETS.", "OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.SEM_SEG", "MODEL.PANOPTIC"),
    *(
        "DATALOADER.NUM_WORKERS",
        "TEST.COMPILE_BACKBONE",
        "TEST.PRECISE_BN",
        "TEST.AUG",
        "MODEL.MASK_ON",
    ),
)


def values_like(value: object) -> st.SearchStrategy:
    """Values of the type of ``value``, and null; few are right."""
    if isinstance(value, bool):
        return st.booleans() | st.none()
    if isinstance(value, int):
        return st.sampled_from([0, -1, -2, 1, 2, 3, 7, None])
    if isinstance(value, float):
        return st.sampled_from([0.0, -1.0, 0.25, 1.0, 2.0, math.nan, math.inf, None])
    if isinstance(value, str):
        return st.sampled_from(["", "bogus", "BN", "GN", None])
    if isinstance(value, (list, tuple)):
        parts = st.sampled_from(["x", -1, 0, 1, 2, 0.5, 1.0, math.nan, None, (), (1, 2)])
        same = st.sampled_from(list(value)) if value else parts
        return st.lists(parts | same, max_size=4).map(type(value)) | st.none()
    return st.just(value)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: str) -> Iterator[str]:  # noqa: F811
    yield tiny_dataset.replace("ga_tiny", DATASET, 1)
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def step_and_infer(cfg: CfgNode) -> None:
    """A step of a training as tools/train_net.py makes it, and an image.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    trainer = GATrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.iter = trainer._trainer.iter = 0
    with EventStorage():
        trainer.run_step()
    images = next(iter(GATrainer.build_test_loader(cfg, DATASET)))
    with torch.no_grad():
        trainer.model.eval()(images)


def refusal(config: str, dataset: str, output: Path, values: dict) -> Exception | None:
    """What refuses a configuration with these values; None where it is accepted, and works.

    Raises:
        any exception that no tool tells in a line.
    """
    flat = [part for pair in values.items() for part in pair]
    overrides = [*NARROW, "OUTPUT_DIR", str(output), *flat]
    try:
        cfg = load_config(str(CONFIGS / f"{config}.yaml"), overrides, [dataset])
        check_run(cfg)
        step_and_infer(cfg)
    except (ConfigError, DataError) as error:
        return error
    return None


def defaults_of(config: str) -> dict[str, object]:
    cfg = load_config(str(CONFIGS / f"{config}.yaml"), NARROW)
    keys = [key for key in keys_of(cfg) if not key.startswith(LEFT_OUT)]
    return {key: functools.reduce(getitem, key.split("."), cfg) for key in keys}


DEFAULTS = {config: defaults_of(config) for config in MODELS}


@pytest.mark.parametrize("config", MODELS)
def test_values_that_are_right(config: str, dataset: str, tmp_path: Path) -> None:
    assert refusal(config, dataset, tmp_path, {}) is None


@pytest.mark.parametrize("config", MODELS)
@settings(max_examples=EXAMPLES // 2)
@given(st.data())
def test_any_value_is_refused_or_works(
    config: str, dataset: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The values are such that any loss is finite if a training is let begin."""
    keys = data.draw(st.lists(st.sampled_from(list(DEFAULTS[config])), max_size=2, unique=True))
    values = {key: data.draw(values_like(DEFAULTS[config][key])) for key in keys}
    refusal(config, dataset, tmp_path_factory.getbasetemp() / "accepted", values)
