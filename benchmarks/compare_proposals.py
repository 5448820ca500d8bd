"""Average recall of RPN and GA-RPN on the embedded dataset: same backbone, schedule and seeds.

    python benchmarks/compare_proposals.py --seeds 1 2 3 --jobs 2

Trains configs/small/*.yaml from scratch, a few minutes each on a CPU, prints a table in Markdown
(mean and standard deviation over the seeds) and writes all numbers beside the models.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from report import Row, Table

PROJECT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "RPN, 3 ratios": "rpn_R_18",
    "RPN, 9 anchors": "rpn_9_anchors_R_18",
    "GA-RPN": "ga_rpn_R_18",
}
METRICS = ("AR@10", "AR@100", "AR@1000", "ARs@100", "ARm@100")
Scores = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--output", type=Path, default=Path("output/compare_proposals"))
    args = parser.parse_args(argv)

    def run(key: tuple[str, int]) -> Scores:
        config, seed = VARIANTS[key[0]], key[1]
        output = args.output / f"{config}_seed{seed}"
        print(f"training {config}, seed {seed}", flush=True)
        return train_and_score(config, output, seed)

    args.output.mkdir(parents=True, exist_ok=True)
    keys = list(itertools.product(VARIANTS, args.seeds))
    with ThreadPoolExecutor(args.jobs) as pool:
        scores = dict(zip(keys, pool.map(run, keys), strict=True))
    numbers = {f"{name}, seed {seed}": s for (name, seed), s in scores.items()}
    (args.output / "scores.json").write_text(json.dumps(numbers, indent=1))
    table = Table()
    for name in VARIANTS:
        table.add(mean_scores(name, scores, args.seeds))
    print(f"Written to {args.output}")


def train_and_score(config: str, output: Path, seed: int) -> Scores:
    """Train with tools/train_net.py on one thread.

    Returns:
        the last value of every metric in metrics.json, and ``minutes`` of wall time.

    Raises:
        RuntimeError: the training failed; with the name of its log.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "metrics.json").unlink(missing_ok=True)
    command = [sys.executable, str(PROJECT / "tools" / "train_net.py"), "--config-file"]
    command += [str(PROJECT / "configs" / "small" / f"{config}.yaml"), "OUTPUT_DIR", str(output)]
    command += ["SEED", str(seed)]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    start = time.perf_counter()
    with (output / "console.txt").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    if done.returncode:
        raise RuntimeError(f"training {config} failed: see {output / 'console.txt'}")
    scores = {"minutes": (time.perf_counter() - start) / 60}
    for line in (output / "metrics.json").read_text().splitlines():
        scores.update(json.loads(line))
    return scores


def mean_scores(name: str, scores: dict[tuple[str, int], Scores], seeds: Sequence[int]) -> Row:
    """Mean and standard deviation of the scores of a kind of proposals."""
    row: Row = {"proposals": name}
    for metric in (*METRICS, "minutes"):
        key = metric if metric == "minutes" else f"proposal_recall/{metric}"
        values = [scores[name, seed][key] for seed in seeds]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        row[metric] = f"{statistics.mean(values):.1f}{spread}"
    return row


if __name__ == "__main__":
    main()
