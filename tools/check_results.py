#!/usr/bin/env python
"""Check detections for upload to COCO's evaluation server, and zip them.

    tools/check_results.py output/inference/coco_instances_results.json \\
        --annotations image_info_test-dev2017.json --zip detections_test-dev2017_GA_results.zip

Every detection must have an image and a category of the dataset, a box with a width and a height,
and a score; an image may have at most 100 detections. The exit status is 1 if anything is wrong.
"""

import argparse

from ga_detectron2.engine.command_line import errors_in_one_line, make_parser
from ga_detectron2.engine.output_paths import check_output_file
from ga_detectron2.evaluation.coco_results import check_results, zip_results


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "results",
        metavar="RESULTS.json",
        help="detections in COCO's format, such as inference/coco_instances_results.json of a run",
    )
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="FILE.json",
        help="COCO JSON of the images (for test-dev: image_info_test-dev2017.json)",
    )
    parser.add_argument(
        "--zip",
        metavar="FILE.zip",
        help="file to upload, named detections_test-dev2017_NAME_results.zip",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("check_results.py"):
        if args.zip:
            check_output_file("--zip", args.zip, [args.results, args.annotations])
        found = check_results(args.results, args.annotations)
        if args.zip:
            zip_results(args.results, args.zip)
    print(
        f"{args.results} can be uploaded: {found.detections} detections on {found.images} images, "
        f"at most {found.most_per_image} on one; {found.images_without} images have none"
    )
    if args.zip:
        print(f"check_results.py: upload {args.zip}")


if __name__ == "__main__":
    main()
