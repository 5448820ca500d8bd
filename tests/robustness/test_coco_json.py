"""COCO JSON files of all kinds: refused by the file and the entry, or loaded by detectron2."""

import contextlib
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.data import register_datasets
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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    return folder


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


def changed(path: tuple[Any, ...], value: Any) -> bytes:
    contents = copy.deepcopy(RIGHT)
    node: Any = contents
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(contents).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images", 1, "id"), 5, r"images\[1\] has the id 5, which an earlier"),
        (("annotations", 1, "id"), 1, r"annotations\[1\] has the id 1, which an earlier"),
        (("categories", 1, "id"), 7, r"categories\[1\] has the id 7, which an earlier"),
        (("images", 1, "id"), "b", r"images\[1\] has the id 'b', but images\[0\] 5; all must be"),
        (("annotations", 0, "id"), None, r"annotations\[0\] has the id None"),
        (("annotations", 0, "image_id"), 6, r"annotations\[0\] is of image 6"),
        (("annotations", 0, "image_id"), [9], r"annotations\[0\] is of image \[9\]"),
        (("annotations", 0, "category_id"), {}, r"annotations\[0\] is of category {}"),
        (("annotations", 0, "category_id"), 8, r"annotations\[0\] is of category 8"),
        (("annotations", 0, "bbox"), [1, 2, 3], r"annotations\[0\] has the bbox \[1, 2, 3\]"),
        (("annotations", 0, "bbox"), [1, 2, math.nan, 3], r"bbox \[1, 2, nan, 3\]; .* finite"),
        (("annotations", 0, "bbox"), [1, 2, math.inf, 3], r"bbox .*inf, 3\]; .* finite"),
        (("annotations", 0, "bbox"), [1, 2, 10**400, 3], r"bbox .*; .* finite"),
        (("annotations", 0, "bbox"), ["1", 2, 3, 4], "bbox .*four finite numbers"),
        (("annotations", 0, "bbox"), None, "bbox None"),
        (("annotations", 0, "iscrowd"), 2, r"iscrowd 2; it must be 0 or 1"),
        (("annotations", 0, "keypoints"), True, "keypoints that are no list"),
        (("annotations", 0, "keypoints"), [1, 2], "keypoints that are no list"),
        (("annotations", 0, "keypoints"), [1, "2", 2], "keypoints that are no list"),
        (("annotations", 0, "segmentation"), True, "neither polygons nor an RLE"),
        (("annotations", 0, "segmentation"), [None], "neither polygons nor an RLE"),
        (("annotations", 0, "segmentation"), {"size": [4, 6]}, "neither polygons nor an RLE"),
        (("annotations", 0, "segmentation"), {"counts": [24], "size": [4]}, "nor an RLE"),
        (("annotations", 0, "segmentation"), {"counts": [-1], "size": [4, 6]}, "nor an RLE"),
        (("images", 0, "height"), 0, r"images\[0\] has the height 0"),
        (("images", 0, "width"), "6", r"images\[0\] has the width '6'"),
        (("images", 0, "file_name"), 3, r"images\[0\] has the file_name 3"),
        (("categories", 0, "name"), 3, r"categories\[0\] has the name 3"),
        (("categories", 0, "keypoints"), [7], r"categories\[0\] has keypoints that are no list"),
        (("categories", 0, "keypoints"), 7, r"categories\[0\] has keypoints that are no list"),
        (("images", 0), None, r"images\[0\] has no 'id'"),
        (("annotations",), {}, "no list 'annotations'"),
    ],
)
def test_refused_by_the_entry(folder: Path, path: tuple, value: Any, message: str) -> None:
    with (
        pytest.raises(ValueError, match=message) as error,
        registered(folder, changed(path, value)),
    ):
        pass
    assert "set.json" in str(error.value)
    assert NAME in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"5", b"[" * 100_000, b'{"images": 1}'])
def test_no_json(folder: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"set\.json is not a"), registered(folder, content):
        pass


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [3, 3, -2, -2], [99, 99, 5, 5], [-1e300, 0, 1, 1]])
def test_boxes_that_detectron2_leaves_out_do_not_end_a_training(folder: Path, box: list) -> None:
    with registered(folder, changed(("annotations", 0, "bbox"), box)):
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
def test_any_json_is_refused_or_loaded(folder: Path, changes: list, data: st.DataObject) -> None:
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
        except (ValueError, FileNotFoundError) as error:
            assert NAME in str(error)  # noqa: PT017
            return
        records = DatasetCatalog.get(NAME)
        assert len(records) == len(contents["images"])
        for record in records:
            for annotation in record["annotations"]:
                assert annotation["category_id"] in range(len(contents["categories"]))
                assert len(annotation["bbox"]) == 4
