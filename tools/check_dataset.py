#!/usr/bin/env python
"""Check a data set in COCO's format, and say whether and how guided anchors suit it.

    tools/check_dataset.py ga_shapes_train                   # a registered data set
    tools/check_dataset.py poles/train.json:poles/images     # any JSON and its folder of images
    tools/check_dataset.py poles/train.json:poles/images --draw 8

It finds image files that are missing or damaged, boxes outside of images, wrong categories and ids,
and more; shows sizes and aspect ratios of the objects against the levels and squares of a model;
compares squares, RPN's anchors and the approximate anchors with the best possible guided anchor;
and says which settings suit. The exit status is 1 if there are errors, 0 with nothing but warnings.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from ga_detectron2.data.check import (
    ERROR,
    HOW,
    CocoFile,
    Findings,
    Geometry,
    InputSize,
    check_annotations,
    check_image_files,
    describe_shapes,
    find_dataset,
    format_findings,
    format_shapes,
    number_of,
    read_coco_file,
    settings_of,
    take_objects,
)
from ga_detectron2.engine import load_config
from ga_detectron2.engine.command_line import (
    add_overrides,
    at_least,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
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
        help="ANNOTATIONS.json:IMAGE_FOLDER, or the name of a registered data set",
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="YAML configuration of the model whose input size, levels and squares count "
        f"(default: configs/{DEFAULT_CONFIG}.yaml)",
    )
    parser.add_argument(
        "--images",
        choices=HOW,
        default=HOW[0],
        help="how to check image files: read all of each, read headers alone, or not at all "
        "(default: full)",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything to this file as well")
    parser.add_argument(
        "--draw",
        type=at_least(0),
        default=0,
        metavar="N",
        help="draw N images with their location and shape targets, and a plot of all shapes "
        "(default: none)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder for the pictures (default: {DEFAULT_OUTPUT}/NAME)",
    )
    add_overrides(parser)
    return parser.parse_intermixed_args(argv)


def bar(description: str, unit: str, total: int | None = None) -> Callable[[Any], Iterable[Any]]:
    """Puts a progress bar around what is gone through."""
    return lambda steps: tqdm(steps, desc=description, unit=unit, total=total)


def read_settings(args: argparse.Namespace) -> tuple[InputSize, GuidedAnchoring]:
    config_file = args.config_file or get_config_file(DEFAULT_CONFIG)
    cfg = load_config(config_file, args.opts)
    try:
        return InputSize.from_config(cfg), settings_of(cfg)
    except ValueError as error:
        raise ConfigError(f"{config_file}: {error}") from error


def check(
    args: argparse.Namespace, settings: tuple[InputSize, GuidedAnchoring]
) -> tuple[CocoFile, Findings, dict[str, Any]]:
    """The data set, what is wrong with it, and what is to be said of its shapes."""
    try:
        found = find_dataset(args.dataset)
        findings = Findings()
        data = read_coco_file(*found, findings)
    except (ValueError, OSError) as error:
        raise ConfigError(error) from error
    print(
        f"{data.name}: {len(data.images)} images, {len(data.annotations)} annotations, "
        f"{len(data.categories)} categories in {data.json_file}\n"
    )
    check_annotations(data, findings)
    if args.images != "none":
        progress = bar("Images", "image", len(data.images))
        check_image_files(data, findings, args.images, progress=progress)
    input_size, anchoring = settings
    shapes = describe_shapes(data, input_size, Geometry.of(anchoring), bar("Settings", "setting"))
    return data, findings, shapes


def write_json(
    path: str, args: argparse.Namespace, data: CocoFile, findings: Findings, shapes: dict[str, Any]
) -> None:
    content = {
        "name": data.name,
        "json_file": data.json_file,
        "image_root": data.image_root,
        "images": len(data.images),
        "annotations": len(data.annotations),
        "categories": len(data.categories),
        "config": args.config_file or get_config_file(DEFAULT_CONFIG),
        "images_checked": args.images,
        "findings": [finding.as_dict() for finding in findings.in_order()],
        "shapes": shapes,
    }
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def draw(
    args: argparse.Namespace, data: CocoFile, settings: tuple[InputSize, GuidedAnchoring]
) -> str:
    """Writes the pictures; returns a sentence on where they are."""
    # matplotlib is needed for nothing else here.
    from ga_detectron2.visualization.dataset_shapes import plot_dataset_shapes
    from ga_detectron2.visualization.dataset_targets import draw_dataset_targets
    from ga_detectron2.visualization.style import save_image

    output = args.output or os.path.join(DEFAULT_OUTPUT, data.name)
    input_size, anchoring = settings
    objects, geometry = take_objects(data, input_size), Geometry.of(anchoring)
    title = f"{data.name}, shorter side {input_size.shorter or 'as it is'}"
    plot = plot_dataset_shapes(objects, geometry, title)
    save_image(plot, os.path.join(output, "shapes.png"))
    count = 0
    pictures = draw_dataset_targets(data, input_size, anchoring, args.draw)
    number = min(args.draw, len(objects.image_of.unique()))
    for name, picture in bar("Drawing", "image", number)(pictures):
        save_image(picture, os.path.join(output, f"{name}.png"))
        count += 1
    return f"shapes.png and {number_of(count, 'picture')} of targets are in {output}"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("check_dataset.py"):
        if args.json:
            check_output_file("--json", args.json)
        if args.draw or args.output:
            check_output_folder("--output", args.output or DEFAULT_OUTPUT)
        settings = read_settings(args)
        data, findings, shapes = check(args, settings)
        print(f"{format_findings(findings)}\n\n{format_shapes(shapes)}\n")
        if args.json:
            write_json(args.json, args, data, findings, shapes)
            print(f"check_dataset.py: everything is in {args.json}")
        if (args.draw or args.output) and shapes["objects"]:
            print(f"check_dataset.py: {draw(args, data, settings)}")
    errors = findings.count(ERROR)
    if errors:
        sys.exit(f"check_dataset.py: {number_of(errors, 'error')}: mend before training")


if __name__ == "__main__":
    main()
