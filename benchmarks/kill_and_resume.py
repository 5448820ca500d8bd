#!/usr/bin/env python
"""Kill trainings at random moments, resume them, and compare what comes out with a whole training.

    benchmarks/kill_and_resume.py --kills 60 --output killed
    benchmarks/kill_and_resume.py --kills 20 --processes 3 4 --output killed_many

Each training is one of tools/train_net.py with --resume, in one process or in two to four as
torchrun starts them. They are forked from this process, so that they need not import everything
anew. Of several, one or more are killed; then the others must end too. When the killed training
has been let finish, its checkpoint must be that of the training that nobody disturbed, bit for bit:
weights, buffers, optimizer and schedule. A table of the moments is printed at the end.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.file_io import PathManager

from ga_detectron2.checkpoint import GACheckpointer
from ga_detectron2.data.coco import coco_subset
from ga_detectron2.engine import GATrainer

PROJECT = Path(__file__).resolve().parents[1]
FEW_SHAPES = "few_shapes.json"  # annotations of twelve images, to evaluate on
MAX_ITER = 12
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
    "SOLVER.MAX_ITER": MAX_ITER,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.WARMUP_ITERS": 6,
    "TEST.EVAL_PERIOD": 6,
    "DATASETS.TEST": "('ga_few_shapes',)",
    "SEED": 3,
}
TRAININGS = [
    # (configuration, processes, other keys)
    ("small/ga_rpn_R_18", 1, {"DATALOADER.NUM_WORKERS": 0}),
    ("small/ga_retinanet_R_18", 2, {"DATALOADER.NUM_WORKERS": 0}),
    ("small/ga_rpn_R_18", 1, {"DATALOADER.NUM_WORKERS": 2}),
    ("small/ga_rpn_R_18", 2, {"DATALOADER.NUM_WORKERS": 1}),
    ("small/ga_retinanet_R_18", 1, {"DATALOADER.NUM_WORKERS": 0}),
    ("small/ga_rpn_R_18", 3, {"DATALOADER.NUM_WORKERS": 0, "SOLVER.IMS_PER_BATCH": 6}),
    ("small/ga_retinanet_R_18", 4, {"DATALOADER.NUM_WORKERS": 0, "SOLVER.IMS_PER_BATCH": 8}),
    ("quickstart_ga_faster_R_18", 4, {"DATALOADER.NUM_WORKERS": 1}),
]
# Longest wait after a phase has begun until the kill, in seconds; shares of the kills; how often a
# phase may begin until then.
PHASES = {
    "at the start": (2.0, 1, 0),
    "in an iteration": (0.3, 3, 4),
    "while a checkpoint is written": (0.06, 3, 2),
    "in evaluation": (0.3, 2, 1),
}


@dataclass
class Kill:
    """One kill, and what came of it."""

    training: int
    processes: int
    phase: str  # that the main process was in
    iteration: int
    ranks: list[int]
    checkpoint: str  # that last_checkpoint named afterwards
    others_ended_after: float | None  # seconds


class Marks:
    """What a training says about itself, through a pipe, before it does something."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self._rest = b""
        self.last = ("at the start", -1)

    def say(self, phase: str, iteration: int) -> None:
        os.write(self.writer, f"{phase}|{iteration}\n".encode())

    def hear(self) -> list[tuple[str, int]]:
        """What has been said since the last time."""
        try:
            self._rest += os.read(self.reader, 1 << 16)
        except BlockingIOError:
            return []
        *lines, self._rest = self._rest.split(b"\n")
        said = [(p, int(i)) for p, i in (line.decode().split("|") for line in lines)]
        self.last = said[-1] if said else self.last
        return said

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def image_folder() -> Path:
    """Of the validation images of the embedded data set, drawn if they are missing."""
    uri = MetadataCatalog.get("ga_shapes_val").json_file
    return Path(PathManager.get_local_path(uri)).parent / "images"


def watch(marks: Marks) -> None:
    """Let the trainings of this process say what they do."""

    class Watch(HookBase):
        def before_step(self) -> None:
            marks.say("in an iteration", self.trainer.iter)

    build_hooks, test, save = GATrainer.build_hooks, GATrainer.test.__func__, GACheckpointer.save
    iteration = [-1]

    def hooks(self: GATrainer) -> list[HookBase]:
        return [Watch(), *build_hooks(self)]

    def watched_save(self: GACheckpointer, name: str, **more: Any) -> None:
        iteration[0] = more["iteration"]
        marks.say("while a checkpoint is written", iteration[0])
        save(self, name, **more)

    def watched_test(cls: type, *args: Any) -> Any:
        marks.say("in evaluation", iteration[0])
        return test(cls, *args)

    GATrainer.build_hooks = hooks
    GACheckpointer.save = watched_save
    GATrainer.test = classmethod(watched_test)


def start(config: str, processes: int, keys: dict[str, Any], folder: Path) -> tuple:
    """Fork the processes of a training; their ids, and the main process's marks."""
    marks = Marks()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    ids = []
    for rank in range(processes):
        pid = os.fork()
        if pid:
            ids.append(pid)
            continue
        status = 1
        try:
            os.setpgid(0, 0)
            log = os.open(folder.parent / f"{folder.name}.{rank}.log",
                          os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # fmt: skip
            os.dup2(log, 1)
            os.dup2(log, 2)
            if processes > 1:
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes),
                    LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1",
                    MASTER_PORT=str(port),
                )  # fmt: skip
            if rank == 0:
                watch(marks)
            spec = importlib.util.spec_from_file_location(
                "train_net", PROJECT / "tools" / "train_net.py"
            )
            assert spec is not None
            assert spec.loader is not None
            script = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(script)
            all_keys = {**KEYS, **keys, "OUTPUT_DIR": folder}
            argv = ["--config-file", str(PROJECT / "configs" / f"{config}.yaml")]
            annotations = folder.parent / FEW_SHAPES
            argv += ["--dataset", f"ga_few_shapes={annotations}:{image_folder()}"]
            argv += ["--resume", *(str(x) for pair in all_keys.items() for x in pair)]
            script.main(argv)
            status = 0
        except SystemExit as stop:
            print(stop.code)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return ids, marks


def wait(ids: Sequence[int], seconds: float) -> dict[int, int | None]:
    """Exit statuses by process id; None for those that did not end in time."""
    end = time.monotonic() + seconds
    found: dict[int, int | None] = dict.fromkeys(ids)
    while time.monotonic() < end and None in found.values():
        for pid in [p for p, status in found.items() if status is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                found[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return found


def last_checkpoint(folder: Path) -> str:
    path = folder / "last_checkpoint"
    return path.read_text() if path.is_file() else "none"


def draw_ranks(rng: random.Random, processes: int) -> list[int]:
    """Which processes to kill, in order."""
    if processes <= 2:
        return [0] if processes == 1 else rng.choice([[0], [1], [0, 1]])
    number = rng.choice((1, 1, rng.randint(2, processes)))
    return sorted(rng.sample(range(processes), number))


def disturb(rng: random.Random, number: int, ids: list[int], marks: Marks, folder: Path) -> Any:
    """Kill a training at a random moment; None if it ended before that."""
    phase = rng.choices(list(PHASES), [share for _, share, _ in PHASES.values()])[0]
    longest, _, most = PHASES[phase]
    times = rng.randint(min(most, 1), most)
    delay = rng.uniform(0, longest)
    ranks = draw_ranks(rng, len(ids))
    while times:
        for said, _ in marks.hear():
            times -= said == phase
            if not times:
                break
        if any(os.waitid(os.P_PID, i, os.WEXITED | os.WNOHANG | os.WNOWAIT) for i in ids):
            return None
        time.sleep(0.001)
    time.sleep(delay)
    for rank in ranks:
        # Not the group: processes that load images must end by themselves.
        os.kill(ids[rank], signal.SIGKILL)
    killed_at = time.monotonic()
    marks.hear()
    statuses = wait(ids, 120)
    if all(statuses[ids[rank]] != -signal.SIGKILL for rank in ranks):
        return None
    others = [pid for rank, pid in enumerate(ids) if rank not in ranks]
    ended = time.monotonic() - killed_at if others else None
    for pid in [p for p, status in statuses.items() if status is None]:
        os.kill(pid, signal.SIGKILL)
        wait([pid], 10)
        ended = float("inf")
    return Kill(number, len(ids), *marks.last, ranks, last_checkpoint(folder), ended)


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """The names of what is not the same in two checkpoints."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(found, expected) else [name]
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [name]
        return [d for k in expected for d in differences(found[k], expected[k], f"{name}.{k}")]
    if isinstance(expected, (list, tuple)):
        pairs = zip(found, expected, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(a, b, f"{name}.{i}")]
    return [] if found == expected else [name]


def finish(training: tuple, folder: Path) -> dict[str, Any]:
    """Let a training end, and read its final checkpoint.

    Raises:
        RuntimeError: it fails.
    """
    ids, marks = start(*training, folder)
    statuses = wait(ids, 1800)
    marks.close()
    if any(statuses.values()) or None in statuses.values():
        raise RuntimeError(f"{folder} did not finish: {statuses}; see {folder}.*.log")
    if not (folder / "metrics.json").read_text().strip().endswith("}"):
        raise RuntimeError(f"{folder}: no scores were written")
    if not (folder / "model_final.pth").is_file():
        raise RuntimeError(f"{folder}: ended without model_final.pth")
    return torch.load(folder / "model_final.pth", weights_only=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="at least (default: 50)")
    parser.add_argument("--per-training", type=int, default=5, help="at most (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    every = sorted({processes for _, processes, _ in TRAININGS})
    parser.add_argument("--processes", type=int, nargs="+", choices=every, default=[1, 2],
                        help="of the trainings (default: 1 2)")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    json_file = image_folder().parent / "annotations.json"
    coco_subset(str(json_file), str(args.output / FEW_SHAPES), range(1, 13))
    trainings = [t for t in TRAININGS if t[1] in args.processes]
    rng = random.Random(args.seed)
    whole: dict[int, dict[str, Any]] = {}
    kills: list[Kill] = []
    failures: list[str] = []
    number = 0
    while len(kills) < args.kills:
        kind = number % len(trainings)
        training = trainings[kind]
        if kind not in whole:
            whole[kind] = finish(training, args.output / f"whole_{kind}")
        folder = args.output / f"killed_{number}"
        shutil.rmtree(folder, ignore_errors=True)
        for _ in range(args.per_training):
            ids, marks = start(*training, folder)
            kill = disturb(rng, number, ids, marks, folder)
            marks.close()
            if kill is None:
                wait(ids, 120)
                break
            kills.append(kill)
            print(kill, flush=True)
            if kill.others_ended_after is not None and kill.others_ended_after > 60:
                failures.append(f"training {number}: a process outlived another by a minute")
        try:
            wrong = differences(finish(training, folder), whole[kind])
        except RuntimeError as error:
            wrong = [str(error)]
        failures += [f"training {number}: {name}" for name in wrong[:3]]
        left = list(folder.glob("*.unfinished"))
        print(f"training {number} {training}: {'differs' if wrong else 'the same'}; {len(left)} "
              "unfinished files", flush=True)  # fmt: skip
        if not wrong:
            shutil.rmtree(folder)
        number += 1
    results = {"kills": [asdict(k) for k in kills], "trainings": number, "failures": failures}
    (args.output / "kills.json").write_text(json.dumps(results, indent=1))
    print(table(kills))
    print(f"{len(kills)} kills in {number} trainings; failures: {failures or 'none'}")
    if failures:
        sys.exit(1)


def table(kills: Sequence[Kill]) -> str:
    """Kills by phase and by who was killed, in Markdown."""

    def who(kill: Kill) -> str:
        if kill.processes == 1:
            return "the only process"
        if kill.processes == 2:
            return f"of 2: {' and '.join(map(str, kill.ranks))}"
        first = "the first" if 0 in kill.ranks else "not the first"
        return f"{len(kill.ranks)} of {kill.processes}, {first}"

    count = Counter((k.phase, who(k)) for k in kills)
    columns = sorted({who(k) for k in kills}, key=lambda name: ("of" in name, name))
    lines = ["| killed | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for phase in PHASES:
        cells = (str(count[phase, column]) for column in columns)
        lines.append(f"| {phase} | " + " | ".join(cells) + " |")
    ended = [k.others_ended_after for k in kills if k.others_ended_after is not None]
    if ended:
        lines.append(f"\nThe others had ended after at most {max(ended):.1f} s.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
