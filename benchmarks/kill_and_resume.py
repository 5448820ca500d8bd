#!/usr/bin/env python
"""Kill trainings at random moments, resume them, and compare the results with whole trainings.

    benchmarks/kill_and_resume.py --kills 60 --output killed
    benchmarks/kill_and_resume.py --kills 20 --processes 3 4 --output killed_many

Each training is one of tools/train_net.py with --resume, in one to four processes, as torchrun
starts them (here they are forked, which saves the imports). Of several, some are killed, and the
others must end as well. When a killed training has been resumed to its end, its checkpoint must
equal that of an undisturbed training bit for bit: weights, buffers, optimizer and schedule.
"""

import argparse
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.file_io import PathManager

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.engine import GATrainer

PROJECT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")
FEW_SHAPES = "few_shapes.json"  # annotations of twelve images, to evaluate on
# Narrow models, tiny images: an iteration takes some hundredths of a second.
KEYS: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.NORM": "",
    "INPUT.MIN_SIZE_TRAIN": "(48, 56, 64)",
    "INPUT.MIN_SIZE_TEST": 48,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 12,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.WARMUP_ITERS": 6,
    "TEST.EVAL_PERIOD": 6,
    "DATASETS.TEST": "('ga_few_shapes',)",
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 3,
}
# Configuration, processes, other keys.
TRAININGS: list[tuple[str, int, dict[str, Any]]] = [
    ("small/ga_rpn_R_18", 1, {}),
    ("small/ga_retinanet_R_18", 2, {}),
    ("small/ga_rpn_R_18", 1, {"DATALOADER.NUM_WORKERS": 2}),
    ("small/ga_rpn_R_18", 2, {"DATALOADER.NUM_WORKERS": 1}),
    ("small/ga_retinanet_R_18", 1, {}),
    ("small/ga_rpn_R_18", 3, {"SOLVER.IMS_PER_BATCH": 6}),
    ("small/ga_retinanet_R_18", 4, {"SOLVER.IMS_PER_BATCH": 8}),
    ("small/ga_faster_R_18", 4, {"DATALOADER.NUM_WORKERS": 1}),
]
# Longest wait in seconds from the beginning of a phase to the kill; share of the kills; how often a
# phase may begin before.
PHASES = {
    "at the start": (2.0, 1, 0),
    "in an iteration": (0.3, 3, 4),
    "while a checkpoint is written": (0.06, 3, 2),
    "in evaluation": (0.3, 2, 1),
}


@dataclass
class Kill:
    """One kill and its consequences."""

    training: int
    processes: int
    phase: str  # of the main process
    iteration: int
    ranks: list[int]
    checkpoint: str  # named by last_checkpoint afterwards
    others_ended_after: float | None  # seconds


class Training:
    """The processes of a training, the first of which reports its phases through a pipe."""

    def __init__(self, config: str, processes: int, keys: dict[str, Any], folder: Path):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.phases, writer = FORK.Pipe(duplex=False)
        self.last = ("at the start", -1)
        self.folder = folder
        self.processes = [
            FORK.Process(target=train, args=(config, rank, processes, port, keys, folder, writer))
            for rank in range(processes)
        ]
        for process in self.processes:
            process.start()
        writer.close()

    def new_phases(self) -> list[str]:
        """Phases that have begun since the last call."""
        begun = []
        try:
            while self.phases.poll():
                self.last = self.phases.recv()
                begun.append(self.last[0])
        except EOFError:
            pass
        return begun

    def wait(self, seconds: float) -> None:
        """Until all processes have ended; those that have not in this time are killed."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        for process in self.processes:
            process.kill()
            process.join()
        self.phases.close()


def train(
    config: str,
    rank: int,
    processes: int,
    port: int,
    keys: dict[str, Any],
    folder: Path,
    phases: Connection,
) -> None:
    """One process of a training; its output goes to a file beside ``folder``."""
    log = os.open(
        folder.parent / f"{folder.name}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    os.dup2(log, 1)
    os.dup2(log, 2)
    if processes > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes),
            LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    if rank == 0:
        report_phases(phases)
    else:
        phases.close()
    argv = ["--config-file", str(PROJECT / "configs" / f"{config}.yaml"), "--resume"]
    argv += ["--dataset", f"ga_few_shapes={folder.parent / FEW_SHAPES}:{image_folder()}"]
    all_keys = {**KEYS, **keys, "OUTPUT_DIR": folder}
    argv += [str(x) for pair in all_keys.items() for x in pair]
    runpy.run_path(str(PROJECT / "tools" / "train_net.py"))["main"](argv)


def report_phases(phases: Connection) -> None:
    """Let the trainer of this process send each phase, with the iteration, before it begins."""

    class Reporter(HookBase):
        def before_step(self) -> None:
            phases.send(("in an iteration", self.trainer.iter))

    build_hooks, test, save = GATrainer.build_hooks, GATrainer.test.__func__, GACheckpointer.save

    def hooks(self: GATrainer) -> list[HookBase]:
        return [Reporter(), *build_hooks(self)]

    def reported_save(self: GACheckpointer, name: str, **more: Any) -> None:
        phases.send(("while a checkpoint is written", more["iteration"]))
        save(self, name, **more)

    def reported_test(cls: type, *args: Any) -> Any:
        phases.send(("in evaluation", -1))
        return test(cls, *args)

    GATrainer.build_hooks = hooks
    GACheckpointer.save = reported_save
    GATrainer.test = classmethod(reported_test)


def image_folder() -> Path:
    """Validation images of the embedded dataset, drawn if they are missing."""
    uri = MetadataCatalog.get("ga_shapes_val").json_file
    return Path(PathManager.get_local_path(uri)).parent / "images"


def disturb(rng: random.Random, number: int, training: Training) -> Kill | None:
    """Kill a training at a random moment; None if it ended before."""
    phase = rng.choices(list(PHASES), [share for _, share, _ in PHASES.values()])[0]
    longest, _, most = PHASES[phase]
    times = rng.randint(min(most, 1), most)
    while times > 0:
        times -= training.new_phases().count(phase)
        if not all(process.is_alive() for process in training.processes):
            training.wait(120)
            return None
        time.sleep(0.001)
    time.sleep(rng.uniform(0, longest))
    processes = len(training.processes)
    number_of_ranks = rng.choice((1, 1, rng.randint(1, processes)))
    ranks = sorted(rng.sample(range(processes), number_of_ranks))
    for rank in ranks:
        # Not the group: processes that load images must end by themselves.
        training.processes[rank].kill()
    start = time.monotonic()
    training.new_phases()
    training.wait(120)
    others = time.monotonic() - start if len(ranks) < processes else None
    if all(training.processes[rank].exitcode != -signal.SIGKILL for rank in ranks):
        return None
    last = training.folder / "last_checkpoint"
    checkpoint = last.read_text() if last.is_file() else "none"
    return Kill(number, processes, *training.last, ranks, checkpoint, others)


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """The names of what is not the same in two checkpoints."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [name]
    if isinstance(expected, dict) and found.keys() == expected.keys():
        return [d for k in expected for d in differences(found[k], expected[k], f"{name}.{k}")]
    if isinstance(expected, list | tuple) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{name}.{i}")]
    return [] if found == expected else [name]


def finish(training: tuple[str, int, dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Let a training end, and read its final checkpoint.

    Raises:
        RuntimeError: it failed.
    """
    running = Training(*training, folder)
    running.wait(1800)
    statuses = [process.exitcode for process in running.processes]
    if any(statuses):
        raise RuntimeError(f"{folder} did not finish: {statuses}; see {folder}.*.log")
    if not (folder / "metrics.json").read_text().strip().endswith("}"):
        raise RuntimeError(f"{folder}: no scores were written")
    return torch.load(folder / "model_final.pth", weights_only=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="at least (default: 50)")
    parser.add_argument("--per-training", type=int, default=5, help="at most (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--processes", type=int, nargs="+", choices=range(1, 5), default=[1, 2],
                        help="of the trainings (default: 1 2)")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    contents = json.loads((image_folder().parent / "annotations.json").read_text())
    contents["images"] = contents["images"][:12]
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] <= 12]
    (args.output / FEW_SHAPES).write_text(json.dumps(contents))
    trainings = [t for t in TRAININGS if t[1] in args.processes]
    rng = random.Random(args.seed)
    whole: dict[int, dict[str, Any]] = {}
    kills: list[Kill] = []
    failures: list[str] = []
    number = 0
    while len(kills) < args.kills:
        kind = number % len(trainings)
        if kind not in whole:
            whole[kind] = finish(trainings[kind], args.output / f"whole_{kind}")
        folder = args.output / f"killed_{number}"
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(args.per_training):
            kill = disturb(rng, number, Training(*trainings[kind], folder))
            if kill is None:
                break
            kills.append(kill)
            print(kill, flush=True)
            if kill.others_ended_after is not None and kill.others_ended_after > 60:
                failures.append(f"training {number}: a process outlived another by a minute")
        try:
            wrong = differences(finish(trainings[kind], folder), whole[kind])
        except (RuntimeError, OSError) as error:
            wrong = [str(error)]
        failures += [f"training {number}: {name}" for name in wrong[:3]]
        print(f"training {number} {trainings[kind]}: {'differs' if wrong else 'the same'}")
        if not wrong:
            shutil.rmtree(folder)
        number += 1
    results = {"kills": [asdict(k) for k in kills], "trainings": number, "failures": failures}
    (args.output / "kills.json").write_text(json.dumps(results, indent=1))
    print(f"{len(kills)} kills in {number} trainings; failures: {failures or 'none'}")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
