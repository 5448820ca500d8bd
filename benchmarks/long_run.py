#!/usr/bin/env python
"""A long training on the embedded data: does the process grow?

    python benchmarks/long_run.py --output output/long_run [--iterations 2000] [--plot FILE.png]

A narrow GA-Faster R-CNN and images whose size is drawn anew in each iteration, so that nearly every
batch has feature maps of a size not seen before, with checkpoints and evaluations on the way. Every
50 iterations: resident memory, open files and threads of the process and of its data workers. The
run fails if, after the first quarter, memory grows by more than 3 MiB in 100 iterations, or there
are more files or threads than there were. Under 500 iterations all is written down and nothing
judged: what a process takes when it starts would be taken for growth.
"""

import argparse
import gc
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from pooled_backbone import PooledImage

from ga_detectron2.engine import GATrainer, load_config
from ga_detectron2.modeling.anchors import make_cell_grid

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart_ga_faster_R_18.yaml"
MOST_GROWTH = 3.0
"""MiB in 100 iterations; 2.7 GB in a schedule of 90 000."""
PERIOD = 50
LEAST_SPAN = 300
"""Iterations after the first quarter; over fewer, growth says nothing."""


def make_config(output: str, iterations: int, workers: int) -> CfgNode:
    cfg = load_config(
        str(CONFIG),
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.WEIGHTS", ""),
            *("MODEL.BACKBONE.NAME", PooledImage.__name__),
            *("MODEL.FPN.OUT_CHANNELS", 16),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
            *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100),
            *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 50),
            *("INPUT.MIN_SIZE_TRAIN", (32, 128)),
            *("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
            *("INPUT.MAX_SIZE_TRAIN", 256),
            *("INPUT.MIN_SIZE_TEST", 64),
            *("INPUT.CROP.ENABLED", True),
            *("INPUT.CROP.TYPE", "absolute_range"),
            *("INPUT.CROP.SIZE", (40, 192)),
            *("DATALOADER.NUM_WORKERS", workers),
            *("SOLVER.IMS_PER_BATCH", 2),
            *("SOLVER.BASE_LR", 0.005),
            *("SOLVER.MAX_ITER", iterations),
            *("SOLVER.CHECKPOINT_PERIOD", max(1, iterations // 8)),
            *("TEST.EVAL_PERIOD", max(1, iterations // 2)),
            *("SEED", 1),
            *("OUTPUT_DIR", output),
        ],
    )
    cfg.freeze()
    return cfg


def measure(pid: int | str = "self") -> dict[str, float]:
    """MiB of resident memory, open files and threads of a process, as /proc has them."""
    folder = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir(folder / "fd")),
        "threads": int(status["Threads"]),
    }


def children() -> list[str]:
    """Processes that this one has started and that still run: the data workers."""
    tasks = Path("/proc/self/task").iterdir()
    return sorted({pid for task in tasks for pid in (task / "children").read_text().split()})


class Recorder(HookBase):
    """Measures every ``PERIOD`` iterations; knows how many sizes of feature maps there were."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.start = time.perf_counter()

    def after_step(self) -> None:
        iteration = self.trainer.iter + 1
        if iteration % PERIOD and iteration != self.trainer.max_iter:
            return
        gc.collect()
        workers = [measure(pid) for pid in children()]
        cache = make_cell_grid.cache_info()
        row = {
            "iteration": iteration,
            **measure(),
            "workers": len(workers),
            "workers_rss_mib": sum(w["rss_mib"] for w in workers),
            "workers_files": sum(w["files"] for w in workers),
            "sizes_seen": cache.misses,
            "sizes_kept": cache.currsize,
            "seconds": round(time.perf_counter() - self.start, 1),
        }
        self.rows.append(row)
        print(" ".join(f"{k} {v:g}" for k, v in row.items()), flush=True)


def growth(rows: list[dict[str, float]], key: str) -> float:
    """Slope of a least-squares line through ``key``, in 100 iterations."""
    x = [row["iteration"] / 100 for row in rows]
    y = [row[key] for row in rows]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / max(sum((a - mean_x) ** 2 for a in x), 1e-9)


def judge(rows: list[dict[str, float]]) -> dict[str, Any]:
    """What grew after the first quarter; ``problems`` is empty, as it should be."""
    later = rows[len(rows) // 4 :]
    half = len(later) // 2
    if later[-1]["iteration"] - later[0]["iteration"] < LEAST_SPAN:
        return {"growth_in_100_iterations": {}, "problems": []}
    slopes = {key: growth(later, key) for key in ("rss_mib", "workers_rss_mib")}
    problems = [
        f"{key} grows by {slope:.1f} MiB in 100 iterations"
        for key, slope in slopes.items()
        if slope > MOST_GROWTH
    ]
    for key in ("files", "threads", "workers", "workers_files"):
        before = max(row[key] for row in later[: half + 1])
        after = max(row[key] for row in later[half:])
        if after > before:
            problems.append(f"{key} from {before:g} to {after:g}")
    return {"growth_in_100_iterations": slopes, "problems": problems}


def plot(rows: list[dict[str, float]], path: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    x = [row["iteration"] for row in rows]
    figure, (memory, counts) = plt.subplots(
        2, 1, sharex=True, figsize=(7, 5), height_ratios=(2, 1), layout="constrained"
    )
    memory.plot(x, [row["rss_mib"] for row in rows], color="C0", label="training process")
    if any(row["workers"] for row in rows):
        workers = [row["workers_rss_mib"] for row in rows]
        memory.plot(x, workers, color="C1", label="data worker")
    memory.set_ylabel("resident memory (MiB)")
    memory.set_ylim(bottom=0)
    memory.legend(loc="lower right")
    counts.plot(x, [row["files"] for row in rows], color="C2", label="open files")
    counts.plot(x, [row["threads"] for row in rows], color="C3", label="threads")
    counts.plot(x, [row["sizes_kept"] for row in rows], color="C4", label="grids kept")
    counts.set_ylim(0, 1.5 * max(max(row["files"], row["sizes_kept"]) for row in rows))
    counts.set_xlabel(f"iteration ({rows[-1]['sizes_seen']:g} sizes of feature maps seen)")
    counts.legend(loc="upper right", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="output/long_run", metavar="FOLDER")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1, help="data workers (default: 1)")
    parser.add_argument("--plot", metavar="FILE", help="write a picture to this PNG file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    os.makedirs(args.output, exist_ok=True)
    trainer = GATrainer(make_config(args.output, args.iterations, args.workers))
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    recorder = Recorder()
    trainer.register_hooks([recorder])
    trainer.train()
    verdict = judge(recorder.rows)
    result = {**verdict, "rows": recorder.rows}
    (Path(args.output) / "long_run.json").write_text(json.dumps(result, indent=1))
    if args.plot:
        plot(recorder.rows, args.plot)
    print(json.dumps(verdict))
    if verdict["problems"]:
        sys.exit("long_run.py: error: " + "; ".join(verdict["problems"]))


if __name__ == "__main__":
    main()
