"""The embedded dataset: drawn shapes, registered as ``ga_shapes_train`` and ``ga_shapes_val``.

Registration accesses no file. Metadata names the files by URI, such as
``ga_shapes://val/annotations.json``. The handler of these URIs draws the images on first use, be it
by a data loader or by a COCOEvaluator in a process that never loaded the data.
"""

import functools
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir

from .images import printable
from .shapes import CLASS_NAMES, DRAWING_VERSION, draw_image

__all__ = [
    "CACHE_VARIABLE",
    "SPLITS",
    "Split",
    "cache_root",
    "drawn_folder",
    "register_embedded_datasets",
]

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "GA_DETECTRON2_CACHE"
"""Environment variable with the folder for drawn images and completed annotations; by default a
folder in iopath's cache."""

URI_PREFIX = "ga_shapes://"
ANNOTATIONS = "annotations.json"
IMAGES = "images"


@dataclass(frozen=True)
class Split:
    """One registered part of the dataset."""

    name: str
    seed: int
    num_images: int

    @property
    def dataset_name(self) -> str:
        return f"ga_shapes_{self.name}"

    @property
    def folder_name(self) -> str:
        """Changes with everything that the images depend on."""
        return f"{self.dataset_name}_v{DRAWING_VERSION}_{self.seed}_{self.num_images}"


SPLITS = (Split("train", seed=1, num_images=1000), Split("val", seed=2, num_images=200))


def register_embedded_datasets() -> None:
    """Register both splits with detectron2's catalogs. Repeated calls have no effect."""
    PathManager.register_handler(_ShapesHandler(), allow_override=True)
    for split in SPLITS:
        if split.dataset_name in DatasetCatalog:
            continue
        json_file = f"{URI_PREFIX}{split.name}/{ANNOTATIONS}"
        image_root = f"{URI_PREFIX}{split.name}/{IMAGES}"
        DatasetCatalog.register(split.dataset_name, functools.partial(_load_records, split))
        MetadataCatalog.get(split.dataset_name).set(
            json_file=json_file,
            image_root=image_root,
            evaluator_type="coco",
            thing_classes=list(CLASS_NAMES),
            # load_coco_json sets this too, but an evaluator may run without loading the data.
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASS_NAMES))},
        )


def _load_records(split: Split) -> list[dict[str, Any]]:
    """Records with local paths, so that images can be opened without PathManager."""
    name = split.dataset_name
    metadata = MetadataCatalog.get(name)
    files = (PathManager.get_local_path(x) for x in (metadata.json_file, metadata.image_root))
    return load_coco_json(*files, name)


def drawn_folder(split: Split) -> str:
    """The local folder with ``annotations.json`` and ``images/`` of a split, drawn if missing.

    The folder appears when it is complete. Where several processes need it, one draws and the
    others wait.

    Raises:
        OSError: the folder cannot be written; names :data:`CACHE_VARIABLE`.
    """
    folder = os.path.join(cache_root(), split.folder_name)
    if os.path.isfile(os.path.join(folder, ANNOTATIONS)):
        return folder
    try:
        with file_lock(folder):
            if not os.path.isfile(os.path.join(folder, ANNOTATIONS)):
                _draw(split, folder)
    except OSError as e:
        raise OSError(
            f"the dataset {split.dataset_name} cannot be generated in {folder} ({e}); set the "
            f"environment variable {CACHE_VARIABLE} to a writable folder"
        ) from e
    return folder


def cache_root() -> str:
    """The folder for drawn images and completed annotations."""
    root = os.environ.get(CACHE_VARIABLE)
    if root:
        return os.path.abspath(os.path.expanduser(root))
    return os.path.join(get_cache_dir(), "ga_detectron2")


def _draw(split: Split, folder: str) -> None:
    import cv2  # Needed for nothing else here.

    count, where = split.num_images, printable(folder)
    logger.info(f"Drawing the {count} images of {split.dataset_name} into {where} ...")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Next to the folder, because a rename is atomic only within a file system.
    prefix, parent = f"{split.folder_name}.", os.path.dirname(folder)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as temporary:
        drawn = os.path.join(temporary, "drawn")
        os.makedirs(os.path.join(drawn, IMAGES))
        for i in range(1, split.num_images + 1):
            image, objects = draw_image(split.seed, i - 1)
            file_name, (height, width) = f"{i:06d}.png", image.shape[:2]
            # imwrite crashes on a folder whose name is not UTF-8.
            with open(os.path.join(drawn, IMAGES, file_name), "wb") as file:
                file.write(cv2.imencode(".png", image)[1].tobytes())
            images.append({"id": i, "file_name": file_name, "height": height, "width": width})
            for x in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": i, **x})
        contents = {
            "info": {
                "description": "Shapes drawn by ga_detectron2",
                "version": f"{DRAWING_VERSION}",
            },
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": i, "name": name, "supercategory": "shape"}
                for i, name in enumerate(CLASS_NAMES, 1)
            ],
        }
        with open(os.path.join(drawn, ANNOTATIONS), "w", encoding="utf-8") as file:
            json.dump(contents, file)
        # A folder without annotations is left over from an interrupted run.
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(drawn, folder)


class _ShapesHandler(PathHandler):
    """Resolves ``ga_shapes://SPLIT/PATH`` to the drawn file, for reading."""

    def _get_supported_prefixes(self) -> list[str]:
        return [URI_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, _, inner = path[len(URI_PREFIX) :].partition("/")
        splits = {split.name: split for split in SPLITS}
        if name not in splits:
            known = ", ".join(URI_PREFIX + x for x in splits)
            raise FileNotFoundError(f"{path} names no split of the embedded dataset, {known}")
        return os.path.join(drawn_folder(splits[name]), *inner.split("/"))

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return os.path.exists(self._get_local_path(path))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return os.path.isfile(self._get_local_path(path))

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return os.path.isdir(self._get_local_path(path))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        if not set(mode) <= set("rbt"):
            raise ValueError(f"{path} can only be read, not opened with mode {mode!r}")
        return open(self._get_local_path(path), mode, buffering=buffering, **kwargs)
