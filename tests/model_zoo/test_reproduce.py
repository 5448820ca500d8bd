"""tools/reproduce.py."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.checkpoint.reference import NARROW, SHAPES, make_narrow
from tests.scripts import load_script

script = load_script("reproduce")


def measured(name: str, value: float | None, **more: object) -> object:
    info = script.MODELS[name]
    more = {"dataset": "coco_2017_val", **more}
    return script.Measurement(name, info.metric, info.coco_val2017, measured=value, **more)


def test_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def pretend(info: SimpleNamespace, args: object) -> dict:
        if info.name == "ga_rpn_R_101":
            raise RuntimeError("no network")
        return {"measured": info.coco_val2017 - 0.12, "images_per_second": 3.217}

    monkeypatch.setattr(script, "measure", pretend)
    with pytest.raises(SystemExit, match="1 of 12 models failed: ga_rpn_R_101"):
        script.main(["--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| ga_rpn_R_50 | AR1000 | 68.4 | 68.3 | -0.1 | 3.22 |  |" in printed
    assert "| ga_rpn_R_101 | AR1000 | 69.5 | failed |  |  |  |" in printed
    assert "ga_rpn_R_101 failed: no network" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    assert [x["name"] for x in found] == list(script.MODELS)
    assert found[0]["difference"] == pytest.approx(-0.12)
    assert found[1]["error"] == "no network"


def test_remarks_of_the_table() -> None:
    other = measured("ga_faster_R_50", 1.0, as_published=False, dataset="mine")
    table = script.format_table([other, measured("ga_rpn_R_50", None)])
    assert "Measured on mine, published on COCO val2017" in table
    assert "Not the published weights, by their SHA-256: ga_faster_R_50." in table
    assert "| ga_rpn_R_50 | AR1000 | 68.4 | none |" in table


def test_unknown_names(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        script.main(["ga_fast_R_50"])
    assert "no weights are published for 'ga_fast_R_50', only for" in capsys.readouterr().err


def test_stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 300.0, 302.0, 400.0, 403.0])
    model = nn.Identity()
    stopwatch = script.Stopwatch(model, warmup=1)
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    model(["warm up"])
    model(["a", "b"])
    model(["c", "d", "e"])
    assert (stopwatch.images, stopwatch.seconds) == (5, 5)


@pytest.mark.slow
def test_evaluation_of_files_in_a_folder(
    tiny_dataset: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    info = script.MODELS["ga_rpn_R_50"]
    # Small values, so that nothing overflows.
    tensors = make_narrow(SHAPES["ga-rpn_r50-caffe_fpn_1x_coco"])
    tensors = {k: v * 0.01 for k, v in tensors.items()}
    torch.save({"state_dict": tensors}, tmp_path / Path(info.weights_url).name)
    with pytest.raises(SystemExit, match="1 of 2 models failed: ga_faster_R_50"):
        script.main(
            [
                *("ga_rpn_R_50", "ga_faster_R_50", "--weights-dir", str(tmp_path)),
                *("--dataset", tiny_dataset, "--output", str(tmp_path / "out")),
                *("--opts", *NARROW, "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64"),
                *("DATALOADER.NUM_WORKERS", "0", "MODEL.ROI_HEADS.NUM_CLASSES", "2"),
            ]
        )
    rpn, faster = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "Not the published weights" in capfd.readouterr().out
    assert "there is no such file" in faster["error"]
    assert rpn["error"] is None
    assert rpn["images"] == 6
    assert rpn["as_published"] is False
    assert rpn["measured"] == rpn["scores"]["proposal_recall"]["AR@1000"]
    assert 0 <= rpn["measured"] <= 100
