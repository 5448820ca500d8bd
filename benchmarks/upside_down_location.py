"""What it costs to train the location branch upside down, as MMDetection does since its version 2.

    OMP_NUM_THREADS=1 python benchmarks/upside_down_location.py --seeds 1 2 3 --jobs 2

Trains configs/small/ga_rpn_R_18.yaml on the embedded data, a few minutes each on a CPU, with the
package's location targets and with the same targets read as MMDetection reads them: as class
numbers, of which 1 is the background. For both it prints the share of cells that pass the filter,
the recall of objects' centres among them (see tools/diagnose.py) and the recall of proposals, with
the published filter of 0.01, a stricter one, and none. All numbers go to OUTPUT/results.json.

The wrong reading is made here, by replacing one function while a model trains; no option of the
package leads to it.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ga_detectron2.engine import GATrainer, load_config, use_available_device
from ga_detectron2.evaluation.diagnosis import diagnose, format_diagnosis
from ga_detectron2.modeling import guided_anchoring
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.targets import LocationTargets, location_targets

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "small" / "ga_rpn_R_18.yaml"
VARIANTS = ("right way up", "upside down")
FILTERS = (0.01, 0.05, 0.0)

logger = logging.getLogger("benchmarks")


def upside_down_targets(*args: Any, **kwargs: Any) -> LocationTargets:
    """The package's targets as a loss reads them for which the number 1 stands for no object.

    Where it sees a class number of 1, the one output should be 0, and where it sees 0, 1. Weights
    stay with their cells.
    """
    targets, weights = location_targets(*args, **kwargs)
    return LocationTargets(1 - targets, weights)


@contextlib.contextmanager
def training_variant(variant: str) -> Iterator[None]:
    """Make GuidedAnchoring use the targets of a variant until the end of the block."""
    if variant == "right way up":
        yield
        return
    with mock.patch.object(guided_anchoring, "location_targets", upside_down_targets):
        yield


def train_and_diagnose(
    variant: str, seed: int, output: Path, opts: Sequence[str]
) -> dict[str, Any]:
    """Train one model and look at it through each of the filters."""
    torch.set_num_threads(1)
    seed_all_rng(seed)
    folder = output / f"{variant.replace(' ', '_')}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("detectron2", "fvcore", "ga_detectron2"):
        setup_logger(str(folder), name=name, abbrev_name=f"{variant} {seed}")
    cfg = load_config(str(CONFIG), ["OUTPUT_DIR", str(folder), "SEED", str(seed), *opts])
    use_available_device(cfg)
    cfg.freeze()
    trainer = GATrainer(cfg)
    with training_variant(variant):
        trainer.train()

    model, dataset = trainer.model, cfg.DATASETS.TEST[0]
    settings = next(m for m in model.modules() if isinstance(m, GuidedAnchoring))
    filters = []
    for threshold in FILTERS:
        settings.loc_filter_thresh = threshold
        scores = GATrainer.test(cfg, model)
        result = diagnose(cfg, model, dataset)
        filters.append({"diagnosis": result, "recall": scores.get("proposal_recall", {})})
    return {"variant": variant, "seed": seed, "filters": filters}


def make_table(results: Sequence[dict[str, Any]], limits: Sequence[int]) -> str:
    """Means over the seeds, and their standard deviations where there are several."""
    seeds = sorted({r["seed"] for r in results})
    lines = [
        f"| location branch ({len(seeds)} seeds) | filter | cells kept (%) | centres kept (%) | "
        "p at centres | p outside | " + " | ".join(f"AR@{limit}" for limit in limits) + " |",
        "| --- |" + " ---: |" * (5 + len(limits)),
    ]
    for variant in VARIANTS:
        for i, threshold in enumerate(FILTERS):
            found = [r["filters"][i] for r in results if r["variant"] == variant]
            total = [f["diagnosis"]["all"] for f in found]
            cells = [
                _mean([100 * t["kept_share"] for t in total], 1),
                _mean([100 * t["center_recall"] for t in total], 1),
                _mean([t["center_probability"] for t in total], 3),
                _mean([t["outside_probability"] for t in total], 3),
                *(_mean([f["recall"][f"AR@{limit}"] for f in found], 1) for limit in limits),
            ]
            lines.append(f"| {variant} | {threshold:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--output", type=Path, default=Path("output/upside_down_location"))
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values of the config"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    limits = load_config(str(CONFIG), args.opts).TEST.PROPOSAL_RECALL_LIMITS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        futures = [
            pool.submit(train_and_diagnose, variant, seed, args.output, args.opts)
            for seed in args.seeds
            for variant in VARIANTS
        ]
        results = [future.result() for future in futures]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps(results, indent=1))
    table = make_table(results, limits)
    (args.output / "table.md").write_text(table)
    for result in results[: len(VARIANTS)]:
        published = result["filters"][0]["diagnosis"]
        print(f"\n{result['variant']}, seed {result['seed']}: {format_diagnosis(published)}")
    print(f"\n{table}\nWritten to {args.output}")


if __name__ == "__main__":
    main()
