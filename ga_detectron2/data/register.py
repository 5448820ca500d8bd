"""Any COCO JSON as a data set, from the command line: ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``."""

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

__all__ = [
    "DatasetArgument",
    "coco_subset",
    "parse_dataset_argument",
    "register_datasets",
]

_FORM = "NAME=ANNOTATIONS.json:IMAGE_FOLDER"


class DatasetArgument(NamedTuple):
    """A data set as named on the command line."""

    name: str
    json_file: str
    image_root: str


def parse_dataset_argument(argument: str) -> DatasetArgument:
    """Take ``NAME=ANNOTATIONS.json:IMAGE_FOLDER`` apart, without looking at the files.

    The folder starts after the last colon, so that one in the path of the JSON does no harm. ``~``
    stands for the home folder.

    Raises:
        ValueError: ``argument`` does not have this form.
    """
    match = re.fullmatch(r"([^=]+)=(.+):([^:]+)", argument.strip())
    if match is None:
        raise ValueError(f"Data set argument {argument!r} should read {_FORM}.")
    name, json_file, image_root = (part.strip() for part in match.groups())
    if not (name and json_file and image_root):
        raise ValueError(f"Data set argument {argument!r} has an empty part; it should be {_FORM}.")
    return DatasetArgument(name, os.path.expanduser(json_file), os.path.expanduser(image_root))


def register_datasets(arguments: Iterable[str]) -> list[str]:
    """Register data sets, each given as ``NAME=ANNOTATIONS.json:IMAGE_FOLDER``, with detectron2.

    Their names can then stand in ``DATASETS.TRAIN`` and ``DATASETS.TEST``. Nothing is registered
    unless every argument is right. A data set that is already registered with the same files is
    left as it is, so that a program may come here twice.

    Returns:
        the names, in the order of ``arguments``.

    Raises:
        FileNotFoundError: a JSON file, an image folder or the first image is missing.
        ValueError: an argument is malformed, a name is taken or given twice, or a file is not a
            COCO detection JSON.
    """
    parsed = [parse_dataset_argument(argument) for argument in arguments]
    names = [dataset.name for dataset in parsed]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Data set {name!r} is given {names.count(name)} times; "
                "every data set needs a name of its own."
            )
    new = [dataset for dataset in parsed if not _is_registered(dataset)]
    categories = [_read_categories(dataset) for dataset in new]
    for dataset, by_id in zip(new, categories, strict=True):
        ids = sorted(by_id)
        register_coco_instances(
            dataset.name,
            # What loading the data would add, here at once: check_num_classes asks before.
            {
                "thing_classes": [by_id[i]["name"] for i in ids],
                "thing_dataset_id_to_contiguous_id": {v: i for i, v in enumerate(ids)},
                **_keypoint_metadata(by_id.values()),
            },
            dataset.json_file,
            dataset.image_root,
        )
    return names


def coco_subset(json_in: str, json_out: str, image_ids: Iterable[int]) -> None:
    """Write a COCO JSON with just these images and their annotations, and all categories.

    Raises:
        ValueError: no image is asked for, or ``json_in`` holds no image of an id.
    """
    wanted = set(image_ids)
    if not wanted:
        raise ValueError("coco_subset needs at least one image id.")
    with open(json_in, encoding="utf-8") as f:
        contents = json.load(f)
    missing = sorted(wanted - {image["id"] for image in contents["images"]})
    if missing:
        raise ValueError(f"{json_in} holds no image with id {', '.join(map(str, missing))}.")
    contents["images"] = [image for image in contents["images"] if image["id"] in wanted]
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] in wanted]
    os.makedirs(os.path.dirname(os.path.abspath(json_out)), exist_ok=True)
    with open(json_out, "w", encoding="utf-8") as f:
        json.dump(contents, f)


def _keypoint_metadata(categories: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What detectron2 asks for when it trains keypoints, from the categories of a COCO JSON.

    A model has one kind of keypoints: those of the first category with any. Two of them change
    places when an image is flipped if their names are the same but for "left" and "right", as all
    of COCO's are.
    """
    names = next((c["keypoints"] for c in categories if c.get("keypoints")), ())
    if not names:
        return {}
    pairs = [(n, n.replace("left", "right")) for n in names if "left" in n]
    return {
        "keypoint_names": tuple(names),
        "keypoint_flip_map": tuple(pair for pair in pairs if pair[1] in names),
    }


def _is_registered(dataset: DatasetArgument) -> bool:
    """Whether these very files go by this name already; refuses a name that others go by."""
    if dataset.name not in DatasetCatalog:
        return False
    metadata = MetadataCatalog.get(dataset.name)
    known = (metadata.get("json_file"), metadata.get("image_root"))
    if known == (dataset.json_file, dataset.image_root):
        return True
    raise ValueError(
        f"A data set named {dataset.name!r} is already registered, with annotations {known[0]} "
        f"and images {known[1]}; choose another name."
    )


def _read_categories(dataset: DatasetArgument) -> dict[int, dict[str, Any]]:
    """The categories by id, from a JSON that was found to be what detectron2 can load."""
    name, json_file, image_root = dataset
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f"Data set {name!r}: there is no annotation file {json_file}; it should read {_FORM}."
        )
    if not os.path.isdir(image_root):
        raise FileNotFoundError(
            f"Data set {name!r}: there is no image folder {image_root}; it should read {_FORM}."
        )
    try:
        with open(json_file, encoding="utf-8") as f:
            contents = json.load(f)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"Data set {name!r}: {json_file} is not a JSON file ({e}).") from e

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"Data set {name!r}: {json_file} is not a COCO detection JSON: {what}. It should be "
            "an object with the lists images (id, file_name, height, width), categories (id, name) "
            "and, but for a test set without them, annotations (id, image_id, category_id, bbox)."
        )

    if not isinstance(contents, dict):
        raise refuse(f"it holds a {type(contents).__name__}")
    required = {
        "images": ("id", "file_name", "height", "width"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }
    # A test set whose annotations are not given out, such as COCO's test-dev, has no such list.
    contents.setdefault("annotations", [])
    for key, fields in required.items():
        entries: Any = contents.get(key)
        if not isinstance(entries, list):
            raise refuse(f"there is no list {key!r}")
        for i, entry in enumerate(entries):
            absent = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if absent:
                raise refuse(f"{key}[{i}] has no {absent[0]!r}")
    for key in ("images", "categories"):
        if not contents[key]:
            raise refuse(f"the list {key!r} is empty")
    problem = _first_problem(contents)
    if problem:
        raise refuse(problem)
    categories = {category["id"]: category for category in contents["categories"]}
    first = os.path.join(image_root, contents["images"][0]["file_name"])
    if not os.path.isfile(first):
        raise FileNotFoundError(
            f"Data set {name!r}: {json_file} names the image "
            f"{contents['images'][0]['file_name']}, which is not in the folder {image_root}; "
            "the folder should be the one that the names of the images start from."
        )
    return categories


def _first_problem(contents: dict[str, Any]) -> str | None:
    """What would end a training or spoil a score: values of another kind, ids given twice.

    Boxes without an area, or outside their image, are not among it: detectron2 leaves them out.

    Args:
        contents: with the lists of a COCO JSON, whose entries have their keys.
    """
    for key in ("images", "categories", "annotations"):
        seen: set[int | str] = set()
        for i, entry in enumerate(contents[key]):
            identity = entry["id"]
            # Scoring gets along with names of images, but counts on numbers for the rest.
            is_name = key == "images" and isinstance(identity, str)
            if not _is_whole(identity) and not is_name:
                return f"{key}[{i}] has the id {identity!r}, which is no whole number"
            if identity in seen:
                return f"{key}[{i}] has the id {identity}, which an earlier one has"
            seen.add(identity)
    first_id = contents["images"][0]["id"]
    for i, image in enumerate(contents["images"]):
        if isinstance(image["id"], str) != isinstance(first_id, str):
            return (
                f"images[{i}] has the id {image['id']!r}, but images[0] {first_id!r}; all must be "
                "numbers, or all names"
            )
    for i, category in enumerate(contents["categories"]):
        if not isinstance(category["name"], str):
            return f"categories[{i}] has the name {category['name']!r}, which is no text"
        points = category.get("keypoints") or []
        if not isinstance(points, list) or not all(isinstance(x, str) for x in points):
            return f"categories[{i}] has keypoints that are no list of names"
    for i, image in enumerate(contents["images"]):
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            return f"images[{i}] has the file_name {image['file_name']!r}, which is no text"
        for side in ("height", "width"):
            if not _is_whole(image[side]) or image[side] < 1:
                return f"images[{i}] has the {side} {image[side]!r}; it must be 1 or more"
    images = {image["id"] for image in contents["images"]}
    categories = {category["id"] for category in contents["categories"]}
    for i, annotation in enumerate(contents["annotations"]):
        box = annotation["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
            return f"annotations[{i}] has the bbox {box!r}; it must be four finite numbers"
        for what, known in (("category", categories), ("image", images)):
            value = annotation[f"{what}_id"]
            if isinstance(value, dict | list) or value not in known:
                many = "categories" if what == "category" else "images"
                return f"annotations[{i}] is of {what} {value!r}, which is not among the {many}"
        if annotation.get("iscrowd", 0) not in (0, 1):
            return f"annotations[{i}] has iscrowd {annotation['iscrowd']!r}; it must be 0 or 1"
        if not _is_segmentation(annotation.get("segmentation")):
            return f"annotations[{i}] has a segmentation that is neither polygons nor an RLE"
        points = annotation.get("keypoints") or []
        if not isinstance(points, list) or len(points) % 3 or not all(map(_is_finite, points)):
            return f"annotations[{i}] has keypoints that are no list of x, y, visibility"
    return None


def _is_segmentation(value: Any) -> bool:
    """Whether detectron2 can load it; the numbers of polygons are not looked at."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        return (
            isinstance(size, list)
            and len(size) == 2
            and all(_is_whole(x) and 1 <= x < 1 << 31 for x in size)
            and (
                isinstance(counts, str)
                or (
                    isinstance(counts, list)
                    and all(_is_whole(x) and 0 <= x < 1 << 32 for x in counts)
                )
            )
        )
    return not value or (isinstance(value, list) and all(isinstance(x, list) for x in value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    # Whole numbers of JSON have no bound, but a float has.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )
