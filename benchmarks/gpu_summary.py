"""What the steps of benchmarks/gpu.sh found: a summary, and OUT/gpu_DEVICE.json with all numbers.

    python benchmarks/gpu_summary.py OUT

The exit status is 1 if something was wrong.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from report import Table, number, share_text, write_json

Rows = list[dict[str, Any]]

STEPS = ("checks", "waiting", "models", "heads", "quickstart", "adaption", "faster", "export")
# Images a second and peak memory of whole models against their twins.
GOAL_MODELS = ("ga_rpn_R_50", "ga_retinanet_R_50")
GOALS = {"inference": 0.97, "training": 0.95}
MEMORY_GOAL = 1.1


def memory_ratio(row: dict[str, Any]) -> float | None:
    """Peak memory as a share of detectron2's, where it was measured."""
    theirs, ours = row.get("memory_mib") or (0, 0)
    return ours / theirs if theirs else None


def print_models(rows: Rows) -> None:
    print(f"\nWhole models; goals of R-50: {GOALS}, peak memory {MEMORY_GOAL}\n")
    keys = ("model", "mode", "precision", "batch")
    table = Table(*keys, "images/s", "ratio", "memory ratio", "", text_columns=3)
    for x in rows:
        memory = memory_ratio(x)
        reached = x["ratio"] >= GOALS[x["mode"]] and (memory or 0) <= MEMORY_GOAL
        table.add(
            *(x[key] for key in keys),
            number(x["ours_images_per_s"]),
            f"{x['ratio']:.2f}",
            number(memory),
            "below its goal" if x["model"] in GOAL_MODELS and not reached else "",
        )


def print_heads(rows: Rows) -> None:
    print("\nHeads: time as a share of detectron2's, and of the branches for a CPU\n")
    table = Table("", "ms", "ratio", "memory ratio")
    for x in rows:
        milliseconds = 1000 * x.get("ours_s", x.get("seconds"))
        table.add(x["case"], number(milliseconds), f"{x['ratio']:.2f}", number(memory_ratio(x)))


def print_adaption(rows: Rows) -> None:
    print("\nFeature adaption and matching: from which share of cells the whole map pays\n")
    for x in rows:
        if "pays_from" in x:
            print(f"{x['case']}: { {k: share_text(v) for k, v in x['pays_from'].items()} }")
        else:
            print({k: v if isinstance(v, str) else number(1000 * v) for k, v in x.items()})


def main(out: Path) -> None:
    found = {step: json.loads((out / f"{step}.json").read_text()) for step in STEPS
             if (out / f"{step}.json").exists()}  # fmt: skip
    if not found:
        sys.exit(f"gpu_summary.py: no results in {out}")
    machine = next(iter(found.values()))["machine"]
    print(f"\n{machine['device']}, torch {machine['torch']}, Python {machine['python']}\n")
    table = Table("step", "right", "wrong", "without a judgement", "skipped")
    wrong = []
    for step in STEPS:
        rows = found.get(step, {"results": []})["results"]
        skipped = sum("skipped" in x for x in rows)
        judged = [x["ok"] for x in rows if "ok" in x]
        wrong += [f"{step}: {json.dumps(x)[:600]}" for x in rows if not x.get("ok", True)]
        others = len(rows) - skipped - len(judged)
        table.add(step, sum(judged), judged.count(False), others if rows else "not run", skipped)
    for line in wrong:
        print(f"WRONG {line}")
    tables = {"models": print_models, "heads": print_heads, "adaption": print_adaption}
    for step, x in found.items():
        rows = [row for row in x["results"] if not {"error", "skipped"} & row.keys()]
        if step in tables and rows:
            tables[step](rows)
        elif step in ("quickstart", "faster", "export"):
            for row in rows:
                print(f"{step}: {json.dumps(row)[:400]}")
    device = re.sub(r"\W+", "_", machine["device"].lower()).strip("_")
    path = out / f"gpu_{device}.json"
    write_json(
        path, machine, [{"step": k, **row} for k, x in found.items() for row in x["results"]]
    )
    print(f"\nAll numbers: {path}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
