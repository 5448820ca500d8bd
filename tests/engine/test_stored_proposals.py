"""Bad files of stored proposals are reported before training and evaluation start."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ga_detectron2.engine import GATrainer
from tests.robustness.test_files import Harm
from tests.scripts import load_script

BOXES = np.array([[4, 4, 40, 40], [30, 20, 80, 60]], dtype=np.float32)


def make(ids: Any = range(1, 7), **more: Any) -> dict[str, Any]:
    ids = [*ids]
    logits = np.ones(len(BOXES), dtype=np.float32)
    return {"ids": ids, "boxes": [BOXES] * len(ids), "objectness_logits": [logits] * len(ids),
            **more}  # fmt: skip


@pytest.mark.parametrize("split", ["train", "test", "eval-only"])
def test_bad_file_is_reported_and_not_executed(
    arguments: Callable, tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Scoring accepts any name of weights.
    load = "ga_detectron2.checkpoint.GACheckpointer.resume_or_load"
    monkeypatch.setattr(load, lambda *_, **__: {})
    monkeypatch.setattr(GATrainer, "run_step", lambda _: pytest.fail("training started"))
    content = {"train": make(), "test": make()}
    bad = "train" if split == "train" else "test"
    message = "mkdir"
    content[bad] = make(x=Harm(tmp_path / "harm"))
    if split == "test":
        content[bad], message = make([1, 2, 3, 5, 6]), "has no proposals for image 4 ("
    keys = {"MODEL__WEIGHTS": "some.pth"} if split == "eval-only" else {}
    for name, proposals in content.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(proposals))
        keys[f"DATASETS__PROPOSAL_FILES_{name.upper()}"] = f"('{tmp_path}/{name}.pkl',)"
    options = ["--eval-only"] if split == "eval-only" else []
    with pytest.raises(SystemExit) as stop:
        load_script("train_net").main(arguments("ga_fast_R_50", *options, **keys))
    assert str(stop.value.code).startswith(f"train_net.py: error: {tmp_path}/{bad}.pkl: ")
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)
    assert not (tmp_path / "harm").exists()
