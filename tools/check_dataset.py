#!/usr/bin/env python
"""Check a dataset in COCO format and estimate whether guided anchors suit it.

    tools/check_dataset.py ga_shapes_train                   # a registered dataset
    tools/check_dataset.py poles/train.json:poles/images     # any JSON and its image folder
    tools/check_dataset.py poles/train.json:poles/images --draw 8

Finds missing or damaged images, boxes outside of images, wrong categories and ids, and more.
Compares the objects' sizes and aspect ratios with the levels and squares of a model, and the best
possible guided anchors with other anchors. Recommends settings. The exit status is 1 if there are
errors.
"""

import argparse
import os
import sys
from dataclasses import asdict
from functools import partial

from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.check import (
    Findings,
    check_annotations,
    check_image_files,
    describe_shapes,
    format_findings,
    format_shapes,
    read_coco_file,
)
from ga_detectron2.data.check.image_files import HOW
from ga_detectron2.data.check.objects import InputSize, find_dataset, settings_of, take_objects
from ga_detectron2.data.check.report import number_of
from ga_detectron2.data.coco import CocoFile
from ga_detectron2.data.findings import ERROR
from ga_detectron2.engine import load_config
from ga_detectron2.engine.command_line import (
    add_number,
    add_overrides,
    errors_in_one_line,
    make_parser,
    write_json,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.engine.run_config import check_dataset
from ga_detectron2.errors import ConfigError
from ga_detectron2.model_zoo import get_config_file
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring

DEFAULT_CONFIG = "ga_faster_R_50"
DEFAULT_OUTPUT = "output/check_dataset"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="ANNOTATIONS.json:IMAGE_FOLDER, or the name of a registered dataset",
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="YAML configuration of the model, for its input size, levels and squares "
        f"(default: configs/{DEFAULT_CONFIG}.yaml)",
    )
    parser.add_argument(
        "--images",
        choices=HOW,
        default=HOW[0],
        help="decode images, read their headers only, or skip them (default: full)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results to this file")
    text = "draw N images with their location and shape targets, and a plot of all shapes"
    add_number(parser, "--draw", 0, text, minimum=0)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder for the pictures (default: {DEFAULT_OUTPUT}/NAME)",
    )
    add_overrides(parser)
    return parser.parse_intermixed_args(argv)


def draw(
    output: str, data: CocoFile, input_size: InputSize, settings: GuidedAnchoring, number: int
) -> None:
    """Write a plot of all shapes and pictures of targets."""
    # matplotlib is needed for nothing else here.
    from ga_detectron2.visualization import draw_dataset_targets, plot_dataset_shapes, save_image

    objects = take_objects(data, input_size)
    title = f"{data.name}, shorter side {input_size.shorter or 'as it is'}"
    plot = plot_dataset_shapes(objects.boxes, settings, title)
    save_image(plot, os.path.join(output, "shapes.png"))
    pictures = draw_dataset_targets(data, input_size, settings, number)
    number = min(number, len(objects.image_of.unique()))
    for name, picture in tqdm(pictures, desc="Drawing", unit="image", total=number):
        save_image(picture, os.path.join(output, f"{name}.png"))
    print(f"check_dataset.py: shapes.png and {number_of(number, 'picture')} are in {output}")


def check(args: argparse.Namespace) -> int:
    """Run the tool; returns the number of errors in the dataset."""
    if ":" not in args.dataset:
        check_dataset("DATASET", args.dataset)
    name, json_file, image_root = find_dataset(args.dataset)
    output = args.output or os.path.join(DEFAULT_OUTPUT, name)
    if args.json:
        check_output_file("--json", args.json, [json_file])
    if args.draw or args.output:
        check_output_folder("--output", output, [os.path.join(image_root, "shapes.png")])
    config_file = args.config_file or get_config_file(DEFAULT_CONFIG)
    cfg = load_config(config_file, args.opts)
    try:
        input_size, settings = InputSize.from_config(cfg), settings_of(cfg)
    except ValueError as error:
        raise ConfigError(f"{config_file}: {error}") from error

    findings = Findings()
    data = read_coco_file(name, json_file, image_root, findings)
    print(
        f"{name}: {len(data.images)} images, {len(data.annotations)} annotations, "
        f"{len(data.categories)} categories in {json_file}\n"
    )
    check_annotations(data, findings)
    count = len(data.images)
    check_image_files(data, findings, args.images, partial(tqdm, desc="Images", total=count))
    shapes = describe_shapes(data, input_size, settings, partial(tqdm, desc="Settings"))
    print(f"{format_findings(findings)}\n\n{format_shapes(shapes)}\n")
    if args.json:
        content = {
            "name": name,
            "json_file": json_file,
            "image_root": image_root,
            "config": config_file,
            "images_checked": args.images,
            "findings": [asdict(finding) for finding in findings.in_order()],
            "shapes": shapes,
        }
        write_json("check_dataset.py", args.json, content)
    if (args.draw or args.output) and shapes["objects"]:
        draw(output, data, input_size, settings, args.draw)
    return findings.count(ERROR)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("check_dataset.py"):
        errors = check(args)
    if errors:
        sys.exit(f"check_dataset.py: {number_of(errors, 'error')}: repair before training")


if __name__ == "__main__":
    main()
