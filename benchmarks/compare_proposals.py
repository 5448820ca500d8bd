"""Average recall of RPN and GA-RPN on the embedded data: same backbone, schedule and seeds.

    python benchmarks/compare_proposals.py --seeds 1 2 3 --jobs 2

Trains configs/small/*.yaml from scratch, a few minutes each on a CPU, prints a table in Markdown
(mean and standard deviation over the seeds) and writes it with all numbers beside the models.
"""

import argparse
import json
import logging
import statistics
from pathlib import Path

from training_runs import Run, train_and_score

VARIANTS = {
    "RPN, 3 ratios": "small/rpn_R_18.yaml",
    "RPN, 9 anchors": "small/rpn_9_anchors_R_18.yaml",
    "GA-RPN": "small/ga_rpn_R_18.yaml",
}
METRICS = ("AR@10", "AR@100", "AR@1000", "ARs@100", "ARm@100")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--output", type=Path, default=Path("output/compare_proposals"))
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values for every config"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    keys = [(name, seed) for seed in args.seeds for name in VARIANTS]
    runs = [
        Run(
            VARIANTS[name],
            args.output / f"{Path(VARIANTS[name]).stem}_seed{seed}",
            ("SEED", str(seed), *args.opts),
        )
        for name, seed in keys
    ]
    scores = dict(zip(keys, train_and_score(runs, args.jobs), strict=True))
    table = make_table(scores, args.seeds)
    args.output.mkdir(parents=True, exist_ok=True)
    numbers = {f"{name}, seed {seed}": s for (name, seed), s in scores.items()}
    (args.output / "scores.json").write_text(json.dumps(numbers, indent=1))
    (args.output / "table.md").write_text(table)
    print(table)
    print(f"Written to {args.output}")


def make_table(scores: dict[tuple[str, int], dict[str, float]], seeds: list[int]) -> str:
    rows = [
        f"| Proposals ({len(seeds)} seeds) | " + " | ".join(METRICS) + " | minutes |",
        "| --- |" + " ---: |" * (len(METRICS) + 1),
    ]
    for name in VARIANTS:
        cells = []
        for metric in (*(f"proposal_recall/{m}" for m in METRICS), "minutes"):
            values = [scores[name, seed][metric] for seed in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
