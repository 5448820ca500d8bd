"""A training that is cut off and resumed gives the same weights, bit for bit."""

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ga_detectron2.checkpoint import CheckpointError, atomic
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


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What the loggers that do not hand on to pytest's say, from warnings on."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(logging.WARNING)
    setup_logger(name="fvcore")
    loggers = [logging.getLogger("fvcore"), logging.getLogger("ga_detectron2")]
    for logger in loggers:
        logger.addHandler(handler)
    yield messages
    for logger in loggers:
        logger.removeHandler(handler)


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


@pytest.mark.parametrize("name", ["small/ga_rpn_R_18", "small/ga_retinanet_R_18"])
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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    config: Callable, tmp_path: Path, heard: list[str], damage: Callable
) -> None:
    train(config("cut"), stop_in=5)
    last = tmp_path / "cut" / "model_0000003.pth"
    whole = torch.load(last, weights_only=True)
    damage(last)
    # Of an earlier and longer training in this folder.
    (tmp_path / "cut" / "model_0000099.pth").write_bytes(b"")
    assert_same(train(config("cut"), stop_in=5), whole)
    told = [line for line in heard if "Cannot resume" in line]
    assert len(told) == 1
    assert str(last) in told[0]
    assert any("model_0000001.pth" in line for line in heard)


def test_without_a_good_checkpoint_nothing_is_trained(config: Callable, tmp_path: Path) -> None:
    train(config("cut"), stop_in=5)
    for path in (tmp_path / "cut").glob("*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"model_0000003.pth: damaged.*model_0000001.pth"):
        train(config("cut"))
    # An unreadable note of the last one is no reason to begin anew.
    (tmp_path / "cut" / "last_checkpoint").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model_0000003.pth: damaged"):
        train(config("cut"))


def test_a_full_disk_leaves_the_checkpoint_before(
    config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config("whole"))

    class Full:
        """A file on a disk on which a little room is left."""

        def __init__(self, path: str, mode: str):
            self.file = Path(path).open(mode)
            self.room = 100_000 if "0000003" in path else 10**9

        def write(self, content) -> int:
            self.room -= len(content)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(content)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.file.close()

    monkeypatch.setattr(atomic, "open", Full, raising=False)
    with pytest.raises(
        CheckpointError,
        match=r"model_0000003.pth: cannot be written \(No space left on device\). "
        r"The last checkpoint is model_0000001.pth$",
    ):
        train(config("cut"))
    monkeypatch.undo()
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert "model_0000001.pth" in names
    assert not any("0000003" in name for name in names)
    assert_same(train(config("cut")), whole)
