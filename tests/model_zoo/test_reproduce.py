"""tools/reproduce.py: models in processes of their own, what fails, and what comes out."""

import json
import multiprocessing
import os
import runpy
import signal
from pathlib import Path
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ga_detectron2.model_zoo import PUBLISHED_MODELS
from ga_detectron2.model_zoo import reproduce as module
from ga_detectron2.model_zoo.reproduce import (
    Job,
    Measurement,
    Stopwatch,
    format_table,
    measure_apart,
    reproduce,
)
from tests.checkpoint.reference import NARROW, PROJECT, SHAPES, make_narrow

SCRIPT = PROJECT / "tools" / "reproduce.py"
MODELS = {model.name: model for model in PUBLISHED_MODELS}


def measured(name: str, value: float | None, **more: object) -> Measurement:
    info = MODELS[name]
    return Measurement(name, info.metric, info.coco_val2017, "coco_2017_val", value, **more)


def test_a_failure_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def pretend(name: str, job: Job) -> Measurement:
        if name == "ga_rpn_R_101":
            return measured(name, None, error="no network")
        return measured(name, MODELS[name].coco_val2017 - 0.12, images_per_second=3.217,
                        peak_memory_gib=1.5, device="CPU", as_published=True)  # fmt: skip

    # runpy gives the script its own name for the function, but that looks measure_apart up here.
    monkeypatch.setattr(module, "measure_apart", pretend)
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit, match="1 of 12 models failed: ga_rpn_R_101"):
        main(["--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| ga_rpn_R_50 | AR1000 | 68.4 | 68.3 | -0.1 | 3.22 | 1.50 |" in printed
    assert "| ga_rpn_R_101 | AR1000 | 69.5 | failed |  |  |  |" in printed
    assert "ga_rpn_R_101 failed: no network" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    assert [x["name"] for x in found] == list(MODELS)
    assert found[0]["difference"] == pytest.approx(-0.12)
    assert found[1]["error"] == "no network"
    main(["ga_rpn_R_50", "ga_rpn_R_50", "--output", str(tmp_path)])
    assert len(json.loads((tmp_path / "results.json").read_text())) == 1


def test_results_are_kept_after_every_model(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"

    def pretend(name: str, job: Job) -> Measurement:
        if name == "ga_rpn_R_101":
            raise KeyboardInterrupt
        return measured(name, 1.0)

    with pytest.raises(KeyboardInterrupt):
        reproduce(["ga_rpn_R_50", "ga_rpn_R_101"], Job(), str(path), pretend)
    assert [x["name"] for x in json.loads(path.read_text())] == ["ga_rpn_R_50"]


def test_table_says_what_cannot_be_compared() -> None:
    other = measured("ga_faster_R_50", 1.0, as_published=False, device="NVIDIA")
    other.dataset = "mine"
    table = format_table([other, measured("ga_rpn_R_50", None)])
    assert "Measured on mine, published on COCO val2017" in table
    assert "Not the published weights, by their SHA-256: ga_faster_R_50." in table
    assert "memory (GiB)" in table
    assert "| ga_rpn_R_50 | AR1000 | 68.4 | none |" in table


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT))["main"](["ga_fast_R_50"])
    assert "no weights are published for 'ga_fast_R_50', only for" in capsys.readouterr().err


def test_the_end_of_a_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With processes that are forks of this one, so that they do what they are told here."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(module.multiprocessing, "get_context", lambda _method: context)
    for end, message in (
        (lambda *_: os._exit(3), "ended without a result, with status 3"),
        (lambda *_: os.kill(os.getpid(), signal.SIGKILL), "by the signal SIGKILL (out of memory"),
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
    ):
        monkeypatch.setattr(module, "measure", end)
        found = measure_apart("ga_rpn_R_50", Job())
        assert found.measured is None
        assert found.error is not None
        assert message in found.error


def test_stopwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 200.0, 202.0, 300.0, 303.0])
    model = nn.Identity()
    stopwatch = Stopwatch(model, on_gpu=False, warmup=1)
    assert stopwatch.images_per_second() is None
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    model(["warm up"])
    model(["a", "b"])
    model(["c", "d", "e"])
    # 2 images in 2 seconds and 3 in 3, the first call left out.
    assert stopwatch.images_per_second() == 1


def test_peak_memory_is_that_of_this_process() -> None:
    before = module._peak_rss()
    block = np.ones(1 << 28, dtype=np.uint8)
    grown = module._peak_rss()
    assert block.nbytes == 1 << 28
    assert before > 50 << 20
    # What was free before may be used again, hence not always the whole block. The kernel counts
    # pages in batches, the larger the more cores there are.
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert grown >= resident - (1 << 26)


@pytest.mark.slow
def test_evaluates_files_under_their_published_names(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"),
                    rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))  # fmt: skip
    contents = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in (1, 2)
        ],
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(80)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i, "bbox": [9, 9, 40, 40], "area": 1600,
             "iscrowd": 0} for i in (1, 2)
        ],
    }  # fmt: skip
    (tmp_path / "tiny.json").write_text(json.dumps(contents))
    names = {
        "ga_rpn_R_50": "ga-rpn_r50-caffe_fpn_1x_coco",
        "ga_retinanet_R_50": "ga-retinanet_r50-caffe_fpn_1x_coco",
    }
    for name, reference in names.items():
        file_name = Path(urlparse(MODELS[name].weights_url).path).name
        # Small values, so that nothing overflows.
        tensors = {k: v * 0.01 for k, v in make_narrow(SHAPES[reference]).items()}
        torch.save({"state_dict": tensors, "meta": {}}, tmp_path / file_name)
    with pytest.raises(SystemExit, match="1 of 3 models failed: ga_faster_R_50"):
        runpy.run_path(str(SCRIPT))["main"](
            [
                "ga_rpn_R_50", "ga_faster_R_50", "ga_retinanet_R_50",
                "--dataset", f"reproduce_tiny={tmp_path / 'tiny.json'}:{tmp_path / 'images'}",
                "--weights-dir", str(tmp_path), "--output", str(tmp_path / "out"),
                "--opts", *NARROW, "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64",
                "DATALOADER.NUM_WORKERS", "0",
            ]
        )  # fmt: skip
    rpn, faster, retinanet = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "Not the published weights" in capfd.readouterr().out
    assert "there is no file " in faster["error"]
    for found, metric in ((rpn, ("proposal_recall", "AR@1000")), (retinanet, ("bbox", "AP"))):
        assert found["error"] is None
        assert found["images"] == 2
        assert found["images_per_second"] > 0
        assert 0.05 < found["peak_memory_gib"] < 20
        assert found["as_published"] is False
        task, key = metric
        assert found["measured"] == found["scores"][task][key]
    assert 0 <= rpn["measured"] <= 100
