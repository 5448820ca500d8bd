"""What the steps of benchmarks/gpu.sh found: a summary, and OUT/gpu_DEVICE.json with all numbers.

    python benchmarks/gpu_summary.py OUT

The exit status is 1 if something was wrong.
"""

import json
import re
import sys
from pathlib import Path

from report import Row, Table, write_json

STEPS = ("checks", "waiting", "models", "heads", "quickstart", "adaption", "faster", "export")
# Images a second and peak memory of whole models against their twins.
GOAL_MODELS = ("ga_rpn_R_50", "ga_retinanet_R_50")
GOALS = {"inference": 0.97, "training": 0.95}
MEMORY_GOAL = 1.1


def misses_goal(row: Row) -> bool:
    if row.get("model") not in GOAL_MODELS or "ratio" not in row:
        return False
    return row["ratio"] < GOALS[row["mode"]] or (row["memory_ratio"] or 0) > MEMORY_GOAL


def main(out: Path) -> None:
    found = {step: json.loads((out / f"{step}.json").read_text()) for step in STEPS
             if (out / f"{step}.json").exists()}  # fmt: skip
    if not found:
        sys.exit(f"gpu_summary.py: no results in {out}")
    machine = next(iter(found.values()))["machine"]
    print(f"\n{machine['device']}, torch {machine['torch']}, Python {machine['python']}")
    all_rows = {step: found.get(step, {"results": []})["results"] for step in STEPS}
    counts = Table()
    for step, rows in all_rows.items():
        skipped = sum("skipped" in x for x in rows)
        judged = [x["ok"] for x in rows if "ok" in x]
        counts.add(
            {
                "step": step,
                "right": sum(judged),
                "wrong": judged.count(False),
                "not judged": len(rows) - skipped - len(judged) if rows else "not run",
                "skipped": skipped,
            }
        )
    results = [{"step": step, **row} for step, rows in all_rows.items() for row in rows]
    wrong = [x for x in results if not x.get("ok", True)]
    for row in wrong:
        print(f"WRONG {json.dumps(row)[:600]}")
    print(f"\nGoals of {GOAL_MODELS}: ratio {GOALS}, peak memory {MEMORY_GOAL}")
    for row in filter(misses_goal, results):
        print(f"BELOW ITS GOAL {json.dumps(row)}")
    numbers = Table()
    for row in results:
        if row["step"] not in ("checks", "waiting") and not {"error", "skipped"} & row.keys():
            numbers.add({k: v for k, v in row.items() if k != "step"})
    device = re.sub(r"\W+", "_", machine["device"].lower()).strip("_")
    path = out / f"gpu_{device}.json"
    write_json(path, machine, results)
    print(f"\nAll numbers: {path}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
