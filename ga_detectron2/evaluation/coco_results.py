"""Checks of detections for upload to COCO's evaluation server."""

import json
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ga_detectron2.errors import DataError

__all__ = ["ResultsSummary", "check_results", "zip_results"]

MAX_DETECTIONS = 100
"""Detections per image that the server evaluates."""


class ResultsSummary(NamedTuple):
    """Counts of detections in a file.

    Attributes:
        detections: all of them.
        images: images with detections.
        images_without: images of the dataset without detections.
        most_per_image: largest number of detections in an image.
    """

    detections: int
    images: int
    images_without: int
    most_per_image: int


def check_results(results_file: str, annotations_file: str) -> ResultsSummary:
    """Check detections in COCO's format by the rules of its server.

    Args:
        results_file: JSON, a list of detections with ``image_id``, ``category_id``, ``bbox``
            (x, y, width, height in pixels) and ``score``.
        annotations_file: COCO JSON with the ``images`` and ``categories``; that of test-dev,
            ``image_info_test-dev2017.json``, has no annotations.

    Raises:
        DataError: names the first detection that is wrong.
        OSError: a file cannot be read.
    """
    images, categories = _read_ids(annotations_file)
    results = _read_json(results_file)
    if not isinstance(results, list):
        raise DataError(f"{results_file}: not a list of detections")
    if not results:
        raise DataError(f"{results_file}: no detections")
    per_image: Counter[int] = Counter()
    for i, result in enumerate(results):
        problem = _find_problem(result, images, categories)
        if problem:
            raise DataError(f"{results_file}: detection {i} {problem}")
        per_image[result["image_id"]] += 1
    image, most = per_image.most_common(1)[0]
    if most > MAX_DETECTIONS:
        raise DataError(
            f"{results_file}: image {image} has {most} detections, but the server evaluates "
            f"{MAX_DETECTIONS} per image; set TEST.DETECTIONS_PER_IMAGE to {MAX_DETECTIONS}"
        )
    return ResultsSummary(len(results), len(per_image), len(images) - len(per_image), most)


def zip_results(results_file: str, zip_file: str) -> None:
    """Put detections into a zip file in the form that the server requires.

    Args:
        results_file: checked by :func:`check_results`.
        zip_file: such as ``detections_test-dev2017_NAME_results.zip``.

    Raises:
        DataError: the name of the zip file does not have this form.
    """
    path = Path(zip_file)
    name = path.name
    if not (name.startswith("detections_test-dev2017_") and name.endswith("_results.zip")):
        raise DataError(
            f"{zip_file}: the server requires the name detections_test-dev2017_NAME_results.zip"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(results_file, path.with_suffix(".json").name)


def _read_json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error


def _read_ids(annotations_file: str) -> tuple[set[int], set[int]]:
    contents = _read_json(annotations_file)
    try:
        return ({x["id"] for x in contents["images"]}, {x["id"] for x in contents["categories"]})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{annotations_file}: not a COCO JSON with the lists images and categories"
        ) from error


def _find_problem(result: Any, images: set[int], categories: set[int]) -> str | None:
    """What is wrong with a detection, as the end of a sentence; None if it is correct."""
    if not isinstance(result, dict):
        return "is not an object"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in result:
            return f"has no '{key}'"
    if not _is_id(result["image_id"], images):
        return f"has the image_id {result['image_id']!r}, which is not in the dataset"
    if not _is_id(result["category_id"], categories):
        return (
            f"has the category_id {result['category_id']!r}, which is not in the dataset "
            "(ids are those of the JSON and do not start at 0)"
        )
    box = result["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has the bbox {box!r}, not four finite numbers x, y, width, height"
    if box[2] <= 0 or box[3] <= 0:
        return f"has the bbox {box!r}: its width and height must be above 0"
    if not _is_number(result["score"]):
        return f"has the score {result['score']!r}, not a finite number"
    return None


def _is_id(value: Any, known: set[Any]) -> bool:
    # As pycocotools compares them: 7.0 is 7.
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value in known


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
