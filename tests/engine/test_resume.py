"""An interrupted and resumed training gives the same weights, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from ga_detectron2.engine import GATrainer
from ga_detectron2.errors import GAError

SMALL = {
    "MODEL__FPN__OUT_CHANNELS": 16,
    "MODEL__RETINANET__NUM_CONVS": 1,
    "MODEL__RETINANET__NORM": "",
    "INPUT__MIN_SIZE_TRAIN": "(48, 56, 64)",
    "DATASETS__TEST": "()",
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "SOLVER__MAX_ITER": 7,
    "SOLVER__WARMUP_ITERS": 4,
    "SOLVER__BASE_LR": 0.02,
}


class CutOffError(Exception):
    """Any reason for which a training is interrupted."""


@pytest.fixture
def make(config: Callable, tmp_path: Path) -> Callable[..., CfgNode]:
    """Makes the configuration of a training into a folder."""

    def make(folder: str, name: str = "small/ga_rpn_R_18", **overrides: object) -> CfgNode:
        (tmp_path / folder).mkdir(exist_ok=True)
        return config(name, **{**SMALL, **overrides}, OUTPUT_DIR=tmp_path / folder)

    return make


def train(cfg: CfgNode, stop_in: int | None = None) -> dict:
    """Train, or resume, until an iteration fails.

    Returns:
        content of the last checkpoint.
    """
    torch.manual_seed(1)  # of the initial weights
    trainer = GATrainer(cfg)
    trainer.resume_or_load(resume=True)
    run_step = trainer.run_step

    def step() -> None:
        if trainer.iter == stop_in:
            raise CutOffError
        run_step()

    trainer.run_step = step
    try:
        trainer.train()
    except CutOffError:
        assert stop_in is not None
    return torch.load(trainer.checkpointer.get_checkpoint_file(), weights_only=True)


def assert_same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "name",
    ["small/ga_rpn_R_18", pytest.param("small/ga_retinanet_R_18", marks=pytest.mark.slow)],
)
def test_resumed_training_equals_an_uninterrupted_one(make: Callable, name: str) -> None:
    whole = train(make("whole", name))
    assert whole["iteration"] == 6
    cut = train(make("cut", name), stop_in=5)
    assert cut["iteration"] == 3
    assert_same(train(make("cut", name)), whole)
    other = train(make("other", name, SEED=2))
    assert not torch.equal(
        other["model"]["backbone.fpn_output3.weight"], whole["model"]["backbone.fpn_output3.weight"]
    )


@pytest.mark.slow
def test_random_seed_is_kept_in_the_checkpoint(make: Callable) -> None:
    train(make("cut", SEED=-1), stop_in=3)
    found = train(make("cut", SEED=-1))
    seed = found["trainer"]["seed"]
    assert_same(found, train(make("whole", SEED=seed)))
    assert train(make("other", SEED=-1), stop_in=3)["trainer"]["seed"] != seed


@pytest.mark.slow
def test_resume_with_workers(make: Callable) -> None:
    whole = train(make("whole"))
    train(make("cut", DATALOADER__NUM_WORKERS=2), stop_in=3)
    assert_same(train(make("cut", DATALOADER__NUM_WORKERS=2)), whole)


def test_missing_final_checkpoint_is_written(make: Callable, tmp_path: Path) -> None:
    """Interrupted between the checkpoint of the last iteration and the final one."""
    whole = train(make("whole", SOLVER__MAX_ITER=2))
    final = tmp_path / "whole" / "model_final.pth"
    final.unlink()
    (tmp_path / "whole" / "last_checkpoint").write_text("model_0000001.pth")
    assert_same(train(make("whole", SOLVER__MAX_ITER=2)), whole)
    assert final.is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL__FPN__OUT_CHANNELS": 8}, "has the shape"),
        ({"MODEL__BACKBONE__FREEZE_AT": 0}, "other trainable parameters"),
        ({"SOLVER__MAX_ITER": 1}, "SOLVER.MAX_ITER 1 is below the 2 iterations"),
    ],
)
def test_checkpoint_of_another_training_is_refused(
    make: Callable, change: dict, message: str
) -> None:
    train(make("first", SOLVER__MAX_ITER=2, MODEL__BACKBONE__FREEZE_AT=2))
    with pytest.raises(GAError, match=message) as error:
        train(make("first", **{"SOLVER__MAX_ITER": 3, "MODEL__BACKBONE__FREEZE_AT": 2, **change}))
    assert "\n" not in str(error.value)
