#!/usr/bin/env python
"""Check a JSON of detections before it goes to COCO's evaluation server, and zip it.

Every detection must have an image and a category of the data set, a box with a width and a height,
and a score; an image may have 100 of them; and pycocotools must load the file. --annotations is the
COCO JSON of the images, for test-dev image_info_test-dev2017.json. --zip writes what is uploaded.
"""

import argparse
import sys

from ga_detectron2.evaluation.coco_results import ResultsError, check_results, zip_results


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULTS.json", help="coco_instances_results.json")
    parser.add_argument("--annotations", required=True, metavar="FILE.json", help="of the images")
    parser.add_argument(
        "--zip", metavar="FILE.zip", help="write detections_test-dev2017_NAME_results.zip"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        found = check_results(args.results, args.annotations)
        if args.zip:
            zip_results(args.results, args.zip)
    except (ResultsError, OSError) as error:
        sys.exit(f"check_results.py: error: {error}")
    print(
        f"{args.results} can be handed in: {found.detections} detections on {found.images} images, "
        f"at most {found.most_per_image} on one; {found.images_without} images have none"
    )


if __name__ == "__main__":
    main()
