"""Arbitrary COCO JSON files are refused in one line, or loaded by detectron2."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.data import register_datasets
from ga_detectron2.data.embedded import CACHE_VARIABLE
from ga_detectron2.errors import DataError
from tests.robustness.examples import EXAMPLES

NAME = "ga_fuzzed"
RIGHT: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 5, "file_name": "a.png", "height": 4, "width": 6},
        {"id": 9, "file_name": "b.png", "height": 4, "width": 6},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [0, 1, 2, 2], "area": 4, "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [1, 1, 3, 2], "area": 6, "iscrowd": 0},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("coco")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        yield folder


@contextlib.contextmanager
def registered(folder: Path, content: bytes) -> Iterator[None]:
    (folder / "set.json").write_bytes(content)
    try:
        register_datasets([f"{NAME}={folder / 'set.json'}:{folder}"])
        yield
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if NAME in catalog:
                catalog.remove(NAME)


@pytest.mark.parametrize("content", [b"", b"\xff", b"5", b"[" * 100_000, b'{"images": 1}'])
def test_other_content_is_refused(folder: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"set\.json is not a"), registered(folder, content):
        pass


def test_boxes_without_area_are_loaded(folder: Path) -> None:
    contents = copy.deepcopy(RIGHT)
    for box in ([0, 0, 0, 0], [3, 3, -2, -2], [99, 99, 5, 5], [-1e300, 0, 1, 1]):
        contents["annotations"][0]["bbox"] = box
        with registered(folder, json.dumps(contents).encode()):
            records = DatasetCatalog.get(NAME)
            assert [len(r["annotations"]) for r in records] == [1, 1]


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 1, 3, 5, 7, 9, "a.png", "../a.png", 10**400]),
    lambda x: (
        st.lists(x, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "name", "bbox", "counts", "size"]), x, max_size=3)
    ),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *((name,) for name in RIGHT),
        *(
            (name, 0, key)
            for name in ("images", "annotations", "categories")
            for key in (*RIGHT[name][0], "segmentation", "keypoints")
        ),
    ]
)


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(PATHS, ANY), min_size=1, max_size=3), st.data())
def test_arbitrary_json_is_refused_or_loaded(
    folder: Path, changes: list, data: st.DataObject
) -> None:
    contents = copy.deepcopy(RIGHT)
    for path, value in changes:
        node: Any = contents
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
    content = json.dumps(contents).encode()
    if data.draw(st.integers(0, 5)) == 0:
        content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(registered(folder, content))
        except DataError as error:
            assert NAME in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            return
        records = DatasetCatalog.get(NAME)
        assert len(records) == len(contents["images"])
        for record in records:
            for annotation in record["annotations"]:
                assert annotation["category_id"] in range(len(contents["categories"]))
                assert len(annotation["bbox"]) == 4
