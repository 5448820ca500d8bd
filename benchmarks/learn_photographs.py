"""Learn a few photographs by heart: whether learning works end to end on real input.

    python benchmarks/learn_photographs.py ANNOTATIONS.json IMAGE_FOLDER

Trains a small GA-RPN, GA-Faster R-CNN and GA-RetinaNet from scratch on the first eight photographs
with two to eight objects (in the order of their ids, crowds left out), and scores each on the same
eight. Prints a table in Markdown and writes it beside the models.
"""

import argparse
import json
import logging
from collections import Counter
from pathlib import Path

from training_runs import Run, train_and_score

from ga_detectron2.data import coco_subset

MODELS = {
    "GA-RPN": ("small/ga_rpn_R_18.yaml", "proposal_recall/AR@100"),
    "GA-Faster R-CNN": ("quickstart_ga_faster_R_18.yaml", "bbox/AP"),
    "GA-RetinaNet": ("small/ga_retinanet_R_18.yaml", "bbox/AP"),
}
DATASET = "photographs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("annotations", type=Path, help="in COCO's format")
    parser.add_argument("images", type=Path, help="folder of the photographs")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--short-side", type=int, default=192, help="of the images, in pixels")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, a thread each")
    parser.add_argument("--output", type=Path, default=Path("output/learn_photographs"))
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="keys and values for every config"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    content = json.loads(args.annotations.read_text())
    chosen = choose_images(content, args.num_images)
    args.output.mkdir(parents=True, exist_ok=True)
    subset = args.output / "annotations.json"
    coco_subset(args.annotations, subset, chosen)
    options = make_options(len(content["categories"]), args)
    runs = [
        Run(
            MODELS[name][0],
            args.output / Path(MODELS[name][0]).stem,
            (*options, *args.opts),
            ("--dataset", f"{DATASET}={subset}:{args.images}"),
        )
        for name in args.models
    ]
    scores = dict(zip(args.models, train_and_score(runs, args.jobs), strict=True))
    table = make_table(scores)
    (args.output / "scores.json").write_text(json.dumps(scores, indent=1))
    (args.output / "table.md").write_text(table)
    print(f"Images {chosen}, {args.iterations} iterations, short side {args.short_side}")
    print(table)
    print(f"Written to {args.output}")


def choose_images(content: dict, number: int) -> list[int]:
    """The first images by id that have two to eight objects and no crowd."""
    crowded = {a["image_id"] for a in content["annotations"] if a.get("iscrowd")}
    objects = Counter(a["image_id"] for a in content["annotations"])
    ids = sorted(
        image["id"]
        for image in content["images"]
        if image["id"] not in crowded and 2 <= objects[image["id"]] <= 8
    )
    return ids[:number]


def make_options(num_classes: int, args: argparse.Namespace) -> tuple[str, ...]:
    # There is nothing to generalise to, hence no augmentation.
    options = {
        "DATASETS.TRAIN": f"('{DATASET}',)",
        "DATASETS.TEST": f"('{DATASET}',)",
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.RETINANET.NUM_CLASSES": num_classes,
        "INPUT.MIN_SIZE_TRAIN": f"({args.short_side},)",
        "INPUT.MIN_SIZE_TEST": args.short_side,
        "INPUT.MAX_SIZE_TRAIN": 2 * args.short_side,
        "INPUT.MAX_SIZE_TEST": 2 * args.short_side,
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.MAX_ITER": args.iterations,
    }
    return tuple(str(x) for pair in options.items() for x in pair)


def make_table(scores: dict[str, dict[str, float]]) -> str:
    rows = ["| model | score | value | minutes, one thread |", "| --- | --- | ---: | ---: |"]
    for name, values in scores.items():
        metric = MODELS[name][1]
        label = metric.replace("proposal_recall/", "").replace("bbox/", "box ")
        rows.append(f"| {name} | {label} | {values[metric]:.1f} | {values['minutes']:.1f} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
