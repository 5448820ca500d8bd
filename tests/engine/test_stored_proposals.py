"""Training and evaluation with stored proposals; bad files are reported before they start."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ga_detectron2.data.proposal_files import Proposals, write_proposals
from ga_detectron2.engine import GATrainer
from tests.data.test_proposal_files import Harm
from tests.scripts import load_script

BOXES = np.array([[4, 4, 40, 40], [30, 20, 80, 60]], dtype=np.float32)


def good(ids: Any = range(1, 7), boxes: np.ndarray = BOXES) -> dict[str, Any]:
    ids = [*ids]
    logits = np.ones(len(boxes), dtype=np.float32)
    return {"ids": ids, "boxes": [boxes] * len(ids), "objectness_logits": [logits] * len(ids)}


@pytest.fixture
def run(arguments: Callable, tmp_path: Path) -> Callable[..., str]:
    """Runs the tool with files for training and scoring, and returns its error."""
    train_net = load_script("train_net")

    def run(train: Any, test: Any, *options: str, **keys: Any) -> str:
        for name, content in (("train", train), ("test", test)):
            data = content if isinstance(content, bytes) else pickle.dumps(content)
            (tmp_path / f"{name}.pkl").write_bytes(data)
            keys[f"DATASETS.PROPOSAL_FILES_{name.upper()}"] = f"('{tmp_path}/{name}.pkl',)"
        keys |= {"MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.FPN.OUT_CHANNELS": 16}
        with pytest.raises(SystemExit) as stop:
            train_net.main(arguments("ga_fast_R_50", *options, **keys))
        return str(stop.value.code)

    return run


@pytest.fixture
def some_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring accepts any name of weights; training must not start."""
    monkeypatch.setattr(
        "ga_detectron2.checkpoint.GACheckpointer.resume_or_load", lambda *_, **__: {}
    )
    monkeypatch.setattr(GATrainer, "run_step", lambda _: pytest.fail("training started"))


@pytest.mark.parametrize("split", ["train", "test", "eval-only"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [("harm", "mkdir"), (good([1, 2, 3, 5, 6]), "has no proposals of image 4 (")],
    ids=["harm", "missing image"],
)
@pytest.mark.usefixtures("some_weights")
def test_bad_file_is_reported_and_not_executed(
    run: Callable, tmp_path: Path, split: str, content: Any, expected: str
) -> None:
    harm = tmp_path / "harm"
    if content == "harm":
        content = {**good(), "x": Harm(harm)}
    if split == "eval-only":
        message = run(b"not read", content, "--eval-only", **{"MODEL.WEIGHTS": "some.pth"})
        split = "test"
    else:
        message = run(**{"train": good(), "test": good(), split: content})
    assert message.startswith(f"train_net.py: error: {tmp_path}/{split}.pkl: ")
    assert expected in message
    assert "\n" not in message
    assert not harm.exists()


@pytest.mark.slow
def test_trains_and_scores(arguments: Callable, tmp_path: Path) -> None:
    write_proposals(str(tmp_path / "p.pkl"), Proposals(**good()))
    keys = {f"DATASETS.PROPOSAL_FILES_{x}": f"('{tmp_path}/p.pkl',)" for x in ("TRAIN", "TEST")}
    load_script("train_net").main(arguments("ga_fast_R_50", **keys))
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert weights["iteration"] == 1
    load_script("train_net").main(
        arguments(
            "ga_fast_R_50",
            "--eval-only",
            MODEL__WEIGHTS=tmp_path / "output" / "model_final.pth",
            **keys,
        )
    )
