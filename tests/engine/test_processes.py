"""Several processes, of one machine or two, compute the same as one process."""

import json
import os
import shutil
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ga_detectron2.engine.processes import is_torchrun, use_torchrun
from ga_detectron2.errors import ConfigError
from tests.engine.jobs import (
    PROJECT,
    assert_ended,
    ended_afterwards,
    finish,
    launch_two_machines,
    start,
    torchrun,
    workers_of,
)

TRAIN = PROJECT / "tools" / "train_net.py"
LOSS_CURVE = PROJECT / "tests" / "engine" / "loss_curve.py"

# A narrow model, without randomness of sampling and flipping.
KEYS = {
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 1000000,
    "MODEL__GUIDED_ANCHOR__BATCH_SIZE_PER_IMAGE": 1000000,
    "INPUT__RANDOM_FLIP": "none",
    "MODEL__RESNETS__DEPTH": 50,
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 32,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 8,
    "MODEL__FPN__OUT_CHANNELS": 32,
    "MODEL__RETINANET__NUM_CONVS": 1,
    "DATALOADER__FILTER_EMPTY_ANNOTATIONS": False,
    "SOLVER__IMS_PER_BATCH": 4,
    "SOLVER__BASE_LR": 0.01,
    "SOLVER__WARMUP_ITERS": 0,
    "SOLVER__MAX_ITER": 12,
    "MODEL__RETINANET__SCORE_THRESH_TEST": 0.0,
}


@pytest.fixture
def some_empty(tiny_dataset: str, tmp_path: Path) -> list[str]:
    """--dataset for the tiny dataset, every other image without objects."""
    json_file, folder = tiny_dataset.split("=")[1].rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] % 2]
    (tmp_path / "some_empty.json").write_text(json.dumps(contents))
    return ["--dataset", f"ga_some_empty={tmp_path / 'some_empty.json'}:{folder}"]


def compare_with_one_process(
    argv: Callable[..., list[str]], jobs: Callable[[list[str]], list], folder: Path
) -> list[list[dict]]:
    """Compare the losses of one process with those of several, in float64.

    Args:
        argv: makes the arguments from an OUTPUT_DIR.
        jobs: starts several processes with them.
        folder: for both outputs.

    Returns:
        The predictions of one process and of several.
    """
    finish(start([LOSS_CURVE, *argv(folder / "one")], FLOAT64="1"))
    finish(*jobs(argv(folder / "several")))
    curves, results = [], []
    for name in ("one", "several"):
        curves.append(json.loads((folder / name / "losses.json").read_text()))
        file = folder / name / "inference" / "instances_predictions.pth"
        results.append(torch.load(file, weights_only=False))
        # Every image is scored once.
        assert [x["image_id"] for x in results[-1]] == [1, 2, 3, 4, 5, 6]
    assert len(curves[0]) == len(curves[1]) == 12
    for one, several in zip(*curves, strict=True):
        assert one == pytest.approx(several, rel=1e-9)
    assert curves[0][0]["total_loss"] != pytest.approx(curves[0][-1]["total_loss"], rel=1e-2)
    return results


@pytest.fixture
def float64_arguments(
    arguments: Callable, some_empty: list[str]
) -> Callable[..., Callable[..., list[str]]]:
    """Makes a function from OUTPUT_DIR to arguments for a config."""
    data = {"DATASETS__TRAIN": "('ga_some_empty',)", "DATASETS__TEST": "('ga_some_empty',)"}

    def of(config: str, **keys: object) -> Callable[..., list[str]]:
        return lambda folder: arguments(
            config, *some_empty, **{**KEYS, **data, **keys}, OUTPUT_DIR=folder
        )

    return of


@pytest.mark.slow
def test_processes_of_torchrun_are_as_one(float64_arguments: Callable, tmp_path: Path) -> None:
    """With an image in each process, some of them without objects."""
    compare_with_one_process(
        float64_arguments("ga_rpn_R_50"),
        lambda argv: [torchrun(LOSS_CURVE, argv, FLOAT64="1")],
        tmp_path,
    )


@pytest.mark.slow
def test_four_processes_on_a_machine_are_as_one(
    float64_arguments: Callable, tmp_path: Path
) -> None:
    """With ROI heads, whose losses are averaged in each process: the same number of ROIs."""
    rois = {
        "MODEL__RPN__POST_NMS_TOPK_TRAIN": 20,
        "MODEL__ROI_HEADS__PROPOSAL_APPEND_GT": False,
        "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000000,
        "MODEL__ROI_BOX_HEAD__FC_DIM": 32,
    }
    compare_with_one_process(
        float64_arguments("ga_faster_R_50", **rois),
        lambda argv: [start([LOSS_CURVE, "--num-gpus", 4, *argv], FLOAT64="1")],
        tmp_path,
    )


@pytest.mark.slow
def test_two_machines_are_as_one_process(float64_arguments: Callable, tmp_path: Path) -> None:
    results = compare_with_one_process(
        float64_arguments("ga_retinanet_R_50"),
        lambda argv: launch_two_machines(LOSS_CURVE, argv, FLOAT64="1"),
        tmp_path,
    )
    for one, several in zip(*results, strict=True):
        assert len(one["instances"]) == len(several["instances"]) > 0
        for a, b in zip(one["instances"], several["instances"], strict=True):
            assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)
            assert a["score"] == pytest.approx(b["score"], rel=1e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_all_of_both_machines(arguments: Callable, tmp_path: Path) -> None:
    argv = arguments("ga_rpn_R_50", **{**KEYS, "SOLVER__MAX_ITER": 100000},
                     OUTPUT_DIR=tmp_path / "out")  # fmt: skip
    started = time.monotonic()
    jobs = launch_two_machines(TRAIN, argv)
    with ended_afterwards(*jobs):
        metrics = tmp_path / "out" / "metrics.json"
        while not (metrics.is_file() and metrics.stat().st_size):
            assert all(job.poll() is None for job in jobs), jobs[0].output()[-2000:]
            time.sleep(0.5)
        workers = [workers_of(job) for job in jobs]
        assert [len(pids) for pids in workers] == [2, 2]
        killed = time.monotonic()
        os.kill(workers[1][0], signal.SIGKILL)
        outputs = [job.output() for job in jobs]
        # Within a minute, or on a slow machine in the time of the first iterations; a process
        # that waits for others does so for half an hour.
        assert time.monotonic() - killed < max(60, killed - started)
    assert all(job.returncode != 0 for job in jobs)
    assert "process 2 was ended by SIGKILL" in outputs[1]
    assert "another process has ended" in outputs[0]
    assert_ended(workers[0] + workers[1])


@pytest.mark.slow
def test_a_process_with_a_broken_image_ends_all(
    arguments: Callable, tiny_dataset: str, tmp_path: Path
) -> None:
    """The error names the image, and waiting processes end, too."""
    json_file, folder = tiny_dataset.split("=")[1].rsplit(":", 1)
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    data = ["--dataset", f"ga_broken={json_file}:{tmp_path / 'images'}", "--num-gpus", 2]
    keys = {**KEYS, "DATASETS__TRAIN": "('ga_broken',)", "SOLVER__MAX_ITER": 100000}
    job = start([TRAIN, *arguments("ga_rpn_R_50", *data, **keys, OUTPUT_DIR=tmp_path / "out")])
    workers: list[int] = []
    with ended_afterwards(job):
        while job.poll() is None and len(workers) < 2:
            workers = workers_of(job)
            time.sleep(0.05)
        output = job.output()
    assert job.returncode == 1
    assert "3.png" in output
    assert len(workers) == 2
    assert_ended(workers)


def test_arguments_follow_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    args = Namespace(num_gpus=1, num_machines=1)
    use_torchrun(args)
    assert not is_torchrun()
    assert vars(args) == {"num_gpus": 1, "num_machines": 1}
    found = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
             "MASTER_ADDR": "a", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    use_torchrun(args)
    assert vars(args) == {"num_gpus": 4, "num_machines": 2}
    with pytest.raises(ConfigError, match=r"--num-gpus 3, but torchrun started 4 processes on"):
        use_torchrun(Namespace(num_gpus=3, num_machines=1))
    monkeypatch.setenv("WORLD_SIZE", "9")
    with pytest.raises(ConfigError, match=r"9 processes, 4 of them on this machine"):
        use_torchrun(Namespace(num_gpus=1, num_machines=1))
