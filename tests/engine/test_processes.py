"""Several processes, of one machine or two, compute the same as one, and end together."""

import copy
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, launch
from detectron2.utils import comm
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ga_detectron2.data.proposal_files import read_proposals
from ga_detectron2.engine import GATrainer
from ga_detectron2.engine.processes import is_torchrun, use_torchrun
from ga_detectron2.engine.train_loop import GASimpleTrainer
from ga_detectron2.engine.trainer import distribute
from ga_detectron2.errors import ConfigError
from tests.engine.jobs import (
    Job,
    assert_ended,
    ended_afterwards,
    finish,
    free_port,
    torchrun,
    two_machines,
    workers_of,
)
from tests.runs import PROJECT
from tests.scripts import load_script

# Without randomness of sampling and flipping, and without statistics of a process's own images.
KEYS = {
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 1000000,
    "MODEL__GUIDED_ANCHOR__BATCH_SIZE_PER_IMAGE": 1000000,
    "INPUT__RANDOM_FLIP": "none",
    "MODEL__RESNETS__NORM": "FrozenBN",
    "MODEL__RETINANET__NUM_CONVS": 1,
    "MODEL__RETINANET__SCORE_THRESH_TEST": 0.0,
    "DATALOADER__FILTER_EMPTY_ANNOTATIONS": False,
    "SOLVER__IMS_PER_BATCH": 4,
    "SOLVER__BASE_LR": 0.01,
    "SOLVER__WARMUP_ITERS": 0,
    "SOLVER__MAX_ITER": 6,
}
# The same number of ROIs in each process, whose losses are averaged.
ROIS = {
    "MODEL__RPN__POST_NMS_TOPK_TRAIN": 20,
    "MODEL__ROI_HEADS__PROPOSAL_APPEND_GT": False,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 1000000,
}


def train(argv: list[str]) -> None:
    load_script("train_net").main(argv)


def train_in_float64(argv: list[str]) -> None:
    """Also writes losses.json, the losses of every iteration by name."""
    # Where the losses ask for at least float32, as mixed precision needs it.
    torch.Tensor.float = torch.Tensor.double

    class LossCurve(HookBase):
        losses: list[dict] = []  # noqa: RUF012 - of a single trainer

        def after_step(self) -> None:
            latest = self.trainer.storage.latest()
            self.losses.append({name: v for name, (v, _) in latest.items() if "loss" in name})

        def after_train(self) -> None:
            if comm.is_main_process():
                path = Path(self.trainer.cfg.OUTPUT_DIR) / "losses.json"
                path.write_text(json.dumps(self.losses))

    class RecordedTrainer(GATrainer):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> nn.Module:
            return super().build_model(cfg).double()

        def build_hooks(self) -> list[HookBase]:
            return [*super().build_hooks(), LossCurve()]

    script = load_script("train_net")
    script.GATrainer = RecordedTrainer
    script.main(argv)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keys", "start"),
    [
        ("ga_rpn_R_50", {}, lambda function, argv: torchrun(function, argv, 2)),
        (
            "ga_faster_R_50",
            ROIS,
            lambda function, argv: [Job(function, ["--num-gpus", "4", *argv])],
        ),
        ("ga_retinanet_R_50", {}, two_machines),
    ],
    ids=["torchrun", "four processes", "two machines"],
)
def test_several_processes_are_as_one(
    arguments: Callable, tiny_dataset: str, tmp_path: Path, name: str, keys: dict, start: Callable
) -> None:
    """In float64, on images half of which have no objects."""
    json_file, folder = tiny_dataset.split("=")[1].rsplit(":", 1)
    contents = json.loads(Path(json_file).read_text())
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] % 2]
    (tmp_path / "some_empty.json").write_text(json.dumps(contents))
    dataset = ["--dataset", f"ga_some_empty={tmp_path / 'some_empty.json'}:{folder}"]
    data = {"DATASETS__TRAIN": "('ga_some_empty',)", "DATASETS__TEST": "('ga_some_empty',)"}
    curves, results = [], []
    for place in ("one", "several"):
        output = tmp_path / place
        argv = arguments(name, *dataset, **{**KEYS, **data, **keys}, OUTPUT_DIR=output)
        jobs = [Job(train_in_float64, argv)] if place == "one" else start(train_in_float64, argv)
        finish(*jobs)
        curves.append(json.loads((output / "losses.json").read_text()))
        file = output / "inference" / "instances_predictions.pth"
        results.append(torch.load(file, weights_only=False))
        # Every image is scored once.
        assert [x["image_id"] for x in results[-1]] == [1, 2, 3, 4, 5, 6]
    assert len(curves[0]) == len(curves[1]) == 6
    for one, several in zip(*curves, strict=True):
        assert one == pytest.approx(several, rel=1e-9)
    assert curves[0][0]["total_loss"] != pytest.approx(curves[0][-1]["total_loss"], rel=1e-2)
    if "retinanet" not in name:
        return
    for one, several in zip(*results, strict=True):
        assert len(one["instances"]) == len(several["instances"]) > 0
        for a, b in zip(one["instances"], several["instances"], strict=True):
            assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)
            assert a["score"] == pytest.approx(b["score"], rel=1e-5)


def dump(argv: list[str]) -> None:
    load_script("dump_proposals").main(argv)


@pytest.mark.slow
def test_dumped_proposals_are_those_of_one_process(
    arguments: Callable, save_weights: Callable, tmp_path: Path
) -> None:
    """Six shards of an image, divided among four processes of two machines."""
    keys = {"MODEL__WEIGHTS": save_weights("ga_rpn_R_50")}
    dump(arguments("ga_rpn_R_50", "--output", tmp_path / "one.pkl", **keys))
    options = ["--shard-size", 1, "--output", tmp_path / "four.pkl"]
    outputs = finish(*two_machines(dump, arguments("ga_rpn_R_50", *options, **keys)))
    # Every shard was computed once.
    assert sum(output.count(f"Shard {i} of 6") for output in outputs for i in range(1, 7)) == 6
    assert "proposals" in outputs[0].splitlines()[-1]
    one, four = (read_proposals(str(tmp_path / f"{name}.pkl")) for name in ("one", "four"))
    assert one.ids == four.ids
    for a, b in zip(one.boxes, four.boxes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
    assert not (tmp_path / "four.pkl.shards").exists()


@pytest.mark.slow
def test_a_process_that_dies_ends_all_of_both_machines(arguments: Callable, tmp_path: Path) -> None:
    keys = {**KEYS, "SOLVER__MAX_ITER": 100000}
    started = time.monotonic()
    jobs = two_machines(train, arguments("ga_rpn_R_50", **keys, OUTPUT_DIR=tmp_path / "out"))
    with ended_afterwards(*jobs):
        metrics = tmp_path / "out" / "metrics.json"
        while not (metrics.is_file() and metrics.stat().st_size):
            assert all(job.returncode is None for job in jobs), jobs[0].output()[-2000:]
            time.sleep(0.1)
        workers = [workers_of(job.pid) for job in jobs]
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
    """The error of a spawned process names the image, and the other one ends, too."""
    json_file, folder = tiny_dataset.split("=")[1].rsplit(":", 1)
    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    options = ["--dataset", f"ga_broken={json_file}:{tmp_path / 'images'}", "--num-gpus", 2]
    keys = {**KEYS, "DATASETS__TRAIN": "('ga_broken',)", "SOLVER__MAX_ITER": 100000}
    done = subprocess.run(
        [sys.executable, PROJECT / "tools" / "train_net.py",
         *arguments("ga_rpn_R_50", *options, **keys)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    assert "3.png" in done.stdout


class Losses(nn.Module):
    """Of two processes, the second has a loss that is NaN at iteration 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, iteration: int) -> dict[str, torch.Tensor]:
        bad = comm.get_rank() == 1 and iteration == 1
        return {"loss_a": self.weight, "loss_b": self.weight * (float("nan") if bad else 1.0)}


def train_losses() -> None:
    model = DistributedDataParallel(Losses())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GASimpleTrainer(model, range(10), optimizer).train(0, 10)


@pytest.mark.slow
def test_a_loss_of_another_process_ends_all_of_them() -> None:
    """The error names the iteration and the loss, whichever process prints it."""
    job = Job(launch, train_losses, 2, 1, 0, "auto")
    with ended_afterwards(job):
        output = job.output()
    assert job.returncode != 0
    lines = [line for line in output.splitlines() if "FloatingPointError: " in line]
    assert lines, output
    assert "iteration" in lines[-1]
    assert "loss_b" in output.split("FloatingPointError: ", 1)[1]


class Backwards(nn.Module):
    """Its layers are used in another order than they are listed: their gradients come otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(37, 37) for _ in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in (3, 0, 6, 1, 5, 2, 4):
            x = self.layers[i](x).tanh()
        return x.square().mean()


def train_twice(rank: int, port: int) -> None:
    """One of three processes that train in one go, and after a new start, and compare both."""

    def data(rank: int, step: int) -> torch.Tensor:
        return torch.randn(5, 37, generator=torch.Generator().manual_seed(10 * step + rank))

    def train(model: nn.Module, first: int, last: int) -> dict[str, torch.Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for step in range(first, last):
            optimizer.zero_grad()
            model(data(rank, step)).backward()
            optimizer.step()
        return copy.deepcopy(model.module.state_dict())

    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3
    )
    torch.manual_seed(0)
    model = Backwards()
    alone = copy.deepcopy(model)
    whole = distribute(model)
    cut_off = train(whole, 0, 1)
    gradient = whole.module.layers[3].weight.grad.clone()
    expected = train(whole, 1, 5)
    resumed = Backwards()
    resumed.load_state_dict(cut_off)
    found = train(distribute(resumed), 1, 5)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    sum(alone(data(r, 0)) for r in range(3)).backward()
    torch.testing.assert_close(gradient, alone.layers[3].weight.grad / 3, atol=1e-7, rtol=1e-5)


@pytest.mark.slow
def test_restart_does_not_change_the_rounding_of_gradients() -> None:
    """Gradients of three processes are added in the same order."""
    port = free_port()
    finish(*(Job(train_twice, rank, port) for rank in range(3)))


def kill_and_resume(*argv: str) -> None:
    script = PROJECT / "benchmarks" / "kill_and_resume.py"
    spec = importlib.util.spec_from_file_location("kill_and_resume", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_and_resume"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    module.main([*argv])


@pytest.mark.slow
def test_killed_trainings_end_like_uninterrupted_ones(tmp_path: Path) -> None:
    """A short run of benchmarks/kill_and_resume.py, which kills trainings at random moments."""
    options = ["--kills", "4", "--per-training", "2", "--output"]
    job = Job(kill_and_resume, *options, str(tmp_path))
    with ended_afterwards(job):
        output = job.output()
    assert job.returncode is not None, output
    results = json.loads((tmp_path / "kills.json").read_text())
    assert len(results["kills"]) >= 4
    assert results["failures"] == []


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
