#!/usr/bin/env python
"""Draw what a trained model made of images of its test set.

    tools/visualize_results.py --config-file configs/small/ga_rpn_R_18.yaml
    tools/visualize_results.py --config-file configs/ga_faster_R_50.yaml --num-images 20 \\
        --output output/pictures MODEL.WEIGHTS ga://ga_faster_R_50

For each image a PNG shows ground truth, location probability, guided anchors, and detections or
proposals; overview.png has all images on one sheet. The weights are MODEL.WEIGHTS where that is
given here, or else the last checkpoint in OUTPUT_DIR.
"""

import argparse
import logging
import os
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.images import read_rgb
from ga_detectron2.engine import GuidedPredictor, Prediction, check_run, read_inference_config
from ga_detectron2.engine.command_line import (
    add_config_file,
    add_dataset,
    add_overrides,
    at_least,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_folder
from ga_detectron2.visualization import (
    Tile,
    compose_panel,
    ground_truth_of,
    make_overview,
    make_tiles,
    save_image,
)

OVERVIEW_SIDE = 320
"""Pixels of the longer side of a picture in the overview."""
OVERVIEW_IMAGES = 12
"""Images in the overview at most: more would not be one sheet."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_config_file(parser)
    parser.add_argument(
        "--num-images",
        type=at_least(1),
        default=8,
        metavar="N",
        help="draw the first N images of DATASETS.TEST (default: 8)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the pictures (default: OUTPUT_DIR/visualization)",
    )
    add_dataset(parser, "DATASETS.TEST")
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="draw detections of at least this score, 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--max-anchors",
        type=at_least(0),
        default=25,
        metavar="N",
        help="draw at most this many guided anchors, the likeliest ones (default: 25)",
    )
    add_overrides(parser)
    return parser.parse_intermixed_args(argv)


def tiles_of(
    args: argparse.Namespace,
    predictor: GuidedPredictor,
    image: np.ndarray,
    ground_truth: Instances,
    prediction: Prediction,
    **options: Any,
) -> list[Tile]:
    outcome = "detections" if prediction.detections is not None else "proposals"
    return make_tiles(
        image,
        guided=prediction.guided,
        input_size=prediction.input_size,
        ground_truth=ground_truth,
        proposals=prediction.proposals,
        detections=prediction.detections,
        metadata=predictor.metadata,
        show=("ground_truth", "location", "anchors", outcome, "levels"),
        threshold=predictor.location_threshold,
        max_anchors=args.max_anchors,
        score_thresh=args.confidence_threshold,
        **options,
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line("visualize_results.py"):
        draw(args)


def draw(args: argparse.Namespace) -> None:
    if args.output:
        check_output_folder("--output", args.output)
    predictor = GuidedPredictor(read_inference_config(args.config_file, args.opts, args.dataset))
    cfg = predictor.cfg
    check_run(cfg, eval_only=True)
    if not args.output:
        check_output_folder("OUTPUT_DIR", os.path.join(cfg.OUTPUT_DIR, "visualization"))
    print(f"visualize_results.py: the weights are {cfg.MODEL.WEIGHTS}")
    output = args.output or os.path.join(cfg.OUTPUT_DIR, "visualization")
    records = [(name, record) for name in cfg.DATASETS.TEST for record in DatasetCatalog.get(name)][
        : args.num_images
    ]

    sheet: list[list[Tile]] = []
    names: list[str] = []
    for dataset, record in tqdm(records, desc="Drawing", unit="image"):
        predictor.metadata = MetadataCatalog.get(dataset)
        image = read_rgb(record["file_name"])
        ground_truth = ground_truth_of(record, image)
        prediction = predictor(image)
        name = os.path.splitext(os.path.basename(record["file_name"]))[0]
        tiles = tiles_of(args, predictor, image, ground_truth, prediction)
        panel = compose_panel(tiles, f"{dataset}: {name}")
        save_image(panel, os.path.join(output, f"{name}.png"))
        if len(sheet) < OVERVIEW_IMAGES:
            small = tiles_of(args, predictor, image, ground_truth, prediction, side=OVERVIEW_SIDE)
            sheet.append(small)
            names.append(name)
    overview = os.path.join(output, "overview.png")
    title = f"{', '.join(cfg.DATASETS.TEST)}: {len(sheet)} images"
    save_image(make_overview(sheet, names, title), overview)
    print(f"visualize_results.py: {len(records)} pictures and {overview} are in {output}")


if __name__ == "__main__":
    main()
