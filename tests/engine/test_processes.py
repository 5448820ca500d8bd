"""Several processes on one or two machines, which are one here: the same as one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ga_detectron2.engine import ConfigError
from ga_detectron2.engine.processes import is_torchrun, use_torchrun

PROJECT = Path(__file__).resolve().parents[2]
TRAIN = PROJECT / "tools" / "train_net.py"
LOSS_CURVE = PROJECT / "tests" / "engine" / "loss_curve.py"

# Sampling and flipping leave nothing to chance; the model is narrow.
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


def start(command: Sequence[object], **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *map(str, command)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT),
             "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def finish(*runs: subprocess.Popen) -> list[str]:
    outputs = [run.communicate(timeout=1500)[0] for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output[-3000:]
    return outputs


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def two_machines(script: Path, argv: Sequence[str], **variables: str) -> list[subprocess.Popen]:
    url = f"tcp://127.0.0.1:{free_port()}"
    options = ["--num-gpus", 2, "--num-machines", 2, "--dist-url", url]
    return [start([script, *options, "--machine-rank", i, *argv], **variables) for i in (0, 1)]


def torchrun(script: Path, argv: Sequence[str], **variables: str) -> subprocess.Popen:
    options = ["--standalone", "--nproc-per-node", "2", script]
    return start(["-m", "torch.distributed.run", *options, *argv], **variables)


@pytest.fixture
def some_empty(tiny_dataset: str, tmp_path: Path) -> list[str]:
    """--dataset and keys for the tiny data set, of which every other image has no objects."""
    json_file, folder = tiny_dataset.split("=")[1].rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] % 2]
    (tmp_path / "some_empty.json").write_text(json.dumps(contents))
    return ["--dataset", f"ga_some_empty={tmp_path / 'some_empty.json'}:{folder}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "processes"), [("ga_rpn_R_50", "torchrun"), ("ga_retinanet_R_50", "2x2")]
)
def test_they_have_the_losses_and_scores_of_one(
    arguments: Callable, some_empty: list[str], tmp_path: Path, config: str, processes: str
) -> None:
    """In float64, in which rounding stays small, at a real rate; ranks without objects included."""
    data = {"DATASETS__TRAIN": "('ga_some_empty',)", "DATASETS__TEST": "('ga_some_empty',)"}
    curves, results = [], []
    for name in ("one", processes):
        argv = arguments(config, *some_empty, **KEYS, **data, OUTPUT_DIR=tmp_path / name)
        if name == "one":
            finish(start([LOSS_CURVE, *argv], FLOAT64="1"))
        elif name == "2x2":
            finish(*two_machines(LOSS_CURVE, argv, FLOAT64="1"))
        else:
            finish(torchrun(LOSS_CURVE, argv, FLOAT64="1"))
        curves.append(json.loads((tmp_path / name / "losses.json").read_text()))
        file = tmp_path / name / "inference" / "instances_predictions.pth"
        results.append(torch.load(file, weights_only=False))
    assert len(curves[0]) == len(curves[1]) == 12
    for one, several in zip(*curves, strict=True):
        assert one == pytest.approx(several, rel=1e-9)
    assert curves[0][0]["total_loss"] != pytest.approx(curves[0][-1]["total_loss"], rel=1e-2)
    # Every image is scored once.
    assert [x["image_id"] for x in results[0]] == [1, 2, 3, 4, 5, 6]
    assert [x["image_id"] for x in results[1]] == [1, 2, 3, 4, 5, 6]
    if config == "ga_retinanet_R_50":
        for one, several in zip(*results, strict=True):
            assert len(one["instances"]) == len(several["instances"]) > 0
            for a, b in zip(one["instances"], several["instances"], strict=True):
                assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)
                assert a["score"] == pytest.approx(b["score"], rel=1e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_all_of_both_machines(arguments: Callable, tmp_path: Path) -> None:
    argv = arguments("ga_rpn_R_50", **{**KEYS, "SOLVER__MAX_ITER": 100000},
                     OUTPUT_DIR=tmp_path / "out")  # fmt: skip
    runs = two_machines(TRAIN, argv)
    metrics = tmp_path / "out" / "metrics.json"
    end = time.monotonic() + 900
    while not (metrics.is_file() and metrics.stat().st_size):
        assert time.monotonic() < end
        assert all(run.poll() is None for run in runs), runs[0].communicate()[0][-2000:]
        time.sleep(0.5)
    children = [
        [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        for run in runs
    ]
    ranks = [[p for p in pids if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text()]
             for pids in children]  # fmt: skip
    assert [len(pids) for pids in ranks] == [2, 2]
    os.kill(ranks[1][0], signal.SIGKILL)
    start_of_end = time.monotonic()
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert time.monotonic() - start_of_end < 60
    assert all(run.returncode != 0 for run in runs)
    assert "process 2 was ended by SIGKILL" in outputs[1]
    assert "another process has ended" in outputs[0]
    for pid in ranks[0] + ranks[1]:
        assert not Path(f"/proc/{pid}").exists()


def test_torchruns_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
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
