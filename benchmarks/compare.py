"""Train several models with the same data, schedule and seeds, and compare their scores.

    python benchmarks/compare.py --seeds 1 2 3 --jobs 2 \\
        "RPN=configs/small/rpn_R_18.yaml" "GA-RPN=configs/small/ga_rpn_R_18.yaml"

Prints tables in Markdown: mean and standard deviation over the seeds, also by class and by aspect
ratio of the object. Models that are in the output folder already are not trained again, so that
--test can score them on another dataset.
"""

import argparse
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pycocotools.coco import COCO
from report import Row, Table, describe, write_json
from scores import Scores, score_detections, score_proposals

PROJECT = Path(__file__).resolve().parents[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=CONFIG [KEY VALUE ...]", help="each in quotation marks"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=JSON:FOLDER", help="as train_net.py"
    )
    parser.add_argument(
        "--test", default="ga_shapes_val", metavar="NAME", help="dataset to score (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/compare"))
    parser.add_argument("--json", type=Path, help="file for all scores")
    args = parser.parse_args(argv)
    models = dict(model.split("=", 1) for model in args.models)
    truth = ground_truth(args.test, args.dataset)

    def run(key: tuple[str, int]) -> Path:
        name, seed = key
        folder = args.output / re.sub(r"\W+", "_", name) / f"seed{seed}"
        options = [f"--dataset={d}" for d in args.dataset]
        config, *values = shlex.split(models[name])
        options += ["--config-file", config, *values, "SEED", str(seed)]
        return train_and_infer(folder, options, args.test)

    keys = list(itertools.product(models, args.seeds))
    with ThreadPoolExecutor(args.jobs) as pool:
        folders = list(pool.map(run, keys))
    scores = {key: score(truth, folder) for key, folder in zip(keys, folders, strict=True)}
    if args.json:
        rows: list[Row] = [{"model": m, "seed": s, **scores[m, s]} for m, s in keys]
        write_json(args.json, describe("cpu"), rows)
    table = Table()
    for name in models:
        table.add({"model": name, **mean_scores([scores[name, seed] for seed in args.seeds])})


def ground_truth(dataset: str, arguments: Sequence[str]) -> COCO:
    """Annotations of a dataset, which is registered first if the arguments have it."""
    from detectron2.data import MetadataCatalog
    from detectron2.utils.file_io import PathManager

    from ga_detectron2.data import register_datasets

    register_datasets(list(arguments))
    coco = COCO()
    with PathManager.open(MetadataCatalog.get(dataset).json_file) as file:
        coco.dataset = json.load(file)
    coco.createIndex()
    return coco


def train_and_infer(folder: Path, options: Sequence[str], test: str) -> Path:
    """Train with tools/train_net.py if ``folder`` has no model yet.

    Returns:
        the folder of the results on the dataset ``test``, by detectron2's COCOEvaluator.
    """
    model, results = folder / "model_final.pth", folder / test
    if not model.is_file():
        train_net([*options, "OUTPUT_DIR", str(folder)], folder / "training.txt")
    if not (results / "inference").is_dir():
        tests = ["MODEL.WEIGHTS", str(model), "DATASETS.TEST", f"('{test}',)"]
        command = ["--eval-only", *options, *tests, "OUTPUT_DIR", str(results)]
        train_net(command, folder / f"{test}.txt")
    return results / "inference"


def score(truth: COCO, results: Path) -> Scores:
    """Scores of the files of a COCOEvaluator, and ``ms``, detectron2's mean time per image."""
    proposals = results / "box_proposals.pkl"
    if proposals.is_file():
        scores = score_proposals(truth, read_proposals(proposals))
    else:
        detections = results / "coco_instances_results.json"
        scores = score_detections(truth, json.loads(detections.read_text()))
    log = (results.parent / "log.txt").read_text()
    seconds = re.findall(r"Total inference pure compute time: .*\((\S+) s / iter", log)[-1]
    return {**scores, "ms": 1000 * float(seconds)}


def train_net(arguments: Sequence[str], log: Path) -> None:
    """Run tools/train_net.py on one thread.

    Raises:
        RuntimeError: it failed; with the name of its log.
    """
    print(f"writing {log}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(PROJECT / "tools" / "train_net.py"), *arguments]
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env=environment)
    if done.returncode:
        raise RuntimeError(f"train_net.py failed: see {log}")


def read_proposals(path: Path) -> list[Row]:
    """Proposals of a ``box_proposals.pkl`` in COCO's format."""
    from detectron2.structures import BoxMode

    from ga_detectron2.data import proposal_files

    found: list[Row] = []
    for image_id, boxes, logits in zip(*proposal_files.read_proposals(str(path)), strict=True):
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        found += [
            {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
            for box, score in zip(boxes.tolist(), logits.tolist(), strict=True)
        ]
    return found


def mean_scores(scores: Sequence[Scores]) -> Row:
    """``mean ± standard deviation`` of every score."""
    row: Row = {}
    for key in scores[0]:
        values = [s[key] for s in scores]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        row[key] = f"{statistics.mean(values):.1f}{spread}"
    return row


if __name__ == "__main__":
    main()
