#!/usr/bin/env python
"""Draw the predictions of a trained model for images of its test set.

    tools/visualize_results.py --config-file configs/small/ga_rpn_R_18.yaml
    tools/visualize_results.py --config-file configs/ga_faster_R_50.yaml --num-images 20 \\
        --output output/pictures MODEL.WEIGHTS ga://ga_faster_R_50

Writes a PNG per image with ground truth, location probability, guided anchors, and detections or
proposals, and overview.png with all images on one sheet. Weights are MODEL.WEIGHTS if given on the
command line, else the last checkpoint in OUTPUT_DIR.
"""

import argparse
import logging
import os
from functools import partial

from detectron2.data import MetadataCatalog
from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.engine import GuidedPredictor, check_run, read_inference_config
from ga_detectron2.engine.command_line import (
    add_confidence_threshold,
    add_model,
    add_number,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_folder
from ga_detectron2.visualization import (
    Tile,
    anchors_of_image,
    compose_panel,
    first_records,
    make_overview,
    make_tiles,
    read_samples,
    save_image,
)

OVERVIEW_SIDE = 320
"""Pixels of the longer side of a picture in the overview."""
OVERVIEW_IMAGES = 12


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_model(parser)
    add_number(parser, "--num-images", 8, "draw the first N images of DATASETS.TEST")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the pictures (default: OUTPUT_DIR/visualization)",
    )
    add_confidence_threshold(parser)
    add_number(parser, "--max-anchors", 25, "draw at most the N likeliest guided anchors", 0)
    return parser.parse_intermixed_args(argv)


def draw(args: argparse.Namespace) -> None:
    cfg = read_inference_config(args.config_file, args.opts, args.dataset)
    check_run(cfg, eval_only=True)
    output = args.output or os.path.join(cfg.OUTPUT_DIR, "visualization")
    records = first_records(cfg.DATASETS.TEST, args.num_images)
    images = [record["file_name"] for _, record in records]
    check_output_folder("--output" if args.output else "OUTPUT_DIR", output, images)
    predictor = GuidedPredictor(cfg)
    print(f"visualize_results.py: the weights are {cfg.MODEL.WEIGHTS}")

    sheet: list[list[Tile]] = []
    names: list[str] = []
    for sample in read_samples(tqdm(records, desc="Drawing", unit="image")):
        prediction = predictor(sample.image)
        guided = prediction.guided
        draw_tiles = partial(
            make_tiles,
            sample.image,
            anchors=None if guided is None else anchors_of_image(guided, prediction.input_size),
            ground_truth=sample.ground_truth,
            proposals=prediction.proposals,
            detections=prediction.detections,
            metadata=MetadataCatalog.get(sample.dataset),
            show=(
                *("ground_truth", "location", "anchors"),
                "proposals" if prediction.detections is None else "detections",
                "levels",
            ),
            threshold=predictor.location_threshold,
            max_anchors=args.max_anchors,
            score_thresh=args.confidence_threshold,
        )
        panel = compose_panel(draw_tiles(), f"{sample.dataset}: {sample.name}")
        save_image(panel, os.path.join(output, f"{sample.name}.png"))
        if len(sheet) < OVERVIEW_IMAGES:
            sheet.append(draw_tiles(side=OVERVIEW_SIDE))
            names.append(sample.name)
    overview = os.path.join(output, "overview.png")
    title = f"{', '.join(cfg.DATASETS.TEST)}: {len(sheet)} images"
    save_image(make_overview(sheet, names, title), overview)
    print(f"visualize_results.py: {len(images)} pictures and {overview} are in {output}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with errors_in_one_line("visualize_results.py"):
        draw(args)


if __name__ == "__main__":
    main()
