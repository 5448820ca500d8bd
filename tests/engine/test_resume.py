"""A training that is cut off and resumed gives the same weights, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from ga_detectron2.engine import GATrainer, load_config

# A model whose iteration takes a few hundredths of a second.
SMALL = {
    "MODEL__RESNETS__DEPTH": 50,
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 32,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 8,
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
    """Stands for whatever ends a training."""


@pytest.fixture
def config(arguments: Callable, tmp_path: Path) -> Callable[..., CfgNode]:
    def config(folder: str, name: str = "small/ga_rpn_R_18", **overrides: object) -> CfgNode:
        call = arguments(name, **{**SMALL, **overrides}, OUTPUT_DIR=tmp_path / folder)
        cfg = load_config(call[1], call[4:], [call[3]])
        (tmp_path / folder).mkdir(exist_ok=True)
        return cfg

    return config


def train(cfg: CfgNode, stop_in: int | None = None) -> dict:
    """Train, or resume, until an iteration fails; what the last checkpoint holds."""
    torch.manual_seed(1)  # the initial weights are default_setup's affair
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
def test_weights_and_state_are_those_of_a_whole_training(config: Callable, name: str) -> None:
    whole = train(config("whole", name))
    assert whole["iteration"] == 6
    cut = train(config("cut", name), stop_in=5)
    assert cut["iteration"] == 3
    assert_same(train(config("cut", name)), whole)
    other = train(config("other", name, SEED=2))
    assert not torch.equal(
        other["model"]["backbone.fpn_output3.weight"], whole["model"]["backbone.fpn_output3.weight"]
    )


@pytest.mark.slow
def test_without_a_seed_the_checkpoint_has_one(config: Callable) -> None:
    train(config("cut", SEED=-1), stop_in=3)
    found = train(config("cut", SEED=-1))
    seed = found["trainer"]["seed"]
    assert_same(found, train(config("whole", SEED=seed)))
    assert train(config("other", SEED=-1), stop_in=3)["trainer"]["seed"] != seed


@pytest.mark.slow
def test_workers_make_no_difference(config: Callable) -> None:
    whole = train(config("whole"))
    train(config("cut", DATALOADER__NUM_WORKERS=2), stop_in=3)
    assert_same(train(config("cut", DATALOADER__NUM_WORKERS=2)), whole)


def test_the_final_checkpoint_is_made_up_for(config: Callable, tmp_path: Path) -> None:
    """Cut off when the last iteration's checkpoint was written, and the final one was not."""
    whole = train(config("whole", SOLVER__MAX_ITER=2))
    final = tmp_path / "whole" / "model_final.pth"
    final.unlink()
    (tmp_path / "whole" / "last_checkpoint").write_text("model_0000001.pth")
    assert_same(train(config("whole", SOLVER__MAX_ITER=2)), whole)
    assert final.is_file()
