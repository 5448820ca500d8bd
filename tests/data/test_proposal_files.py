"""Files of proposals: detectron2 reads what is written, and MMDetection's are read or refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode
from hypothesis import given
from hypothesis import strategies as st

from ga_detectron2.data.proposal_files import (
    Proposals,
    read_mmdet_proposals,
    read_proposals,
    write_proposals,
)
from ga_detectron2.errors import DataError


def make_rows(*numbers: int) -> list[np.ndarray]:
    """Arrays (n, 5) as MMDetection writes them."""
    rng = np.random.default_rng(0)
    arrays = [rng.random((n, 5)).astype(np.float32) for n in numbers]
    for rows in arrays:
        rows[:, 2:4] += rows[:, :2]
        rows[:, :4] *= 100
    return arrays


def write(path: Path, content: object, protocol: int = 4) -> str:
    path.write_bytes(pickle.dumps(content, protocol))
    return str(path)


def test_detectron2_reads_mmdetections_proposals(tmp_path: Path) -> None:
    arrays = make_rows(4, 0, 2)
    ids = [30, 10, 20]  # in the order of the JSON; detectron2 sorts them
    proposals = read_mmdet_proposals(write(tmp_path / "in.pkl", arrays), ids)
    write_proposals(str(tmp_path / "out.pkl"), proposals)
    assert sorted(os.listdir(tmp_path)) == ["in.pkl", "out.pkl"]
    records = [{"image_id": i} for i in (10, 20, 30)]
    records = load_proposals_into_dataset(records, str(tmp_path / "out.pkl"))
    for record, rows in zip(records, (arrays[1], arrays[2], arrays[0]), strict=True):
        order = np.argsort(-rows[:, 4])
        assert record["proposal_bbox_mode"] == BoxMode.XYXY_ABS
        np.testing.assert_array_equal(record["proposal_boxes"], rows[order, :4])
        probabilities = 1 / (1 + np.exp(-record["proposal_objectness_logits"].astype(float)))
        np.testing.assert_allclose(probabilities, rows[order, 4], atol=1e-6)


def test_certain_scores_stay_finite_and_in_order(tmp_path: Path) -> None:
    rows = np.array([[0, 0, 1, 1, s] for s in (0, 1e-9, 0.5, 1)], dtype=np.float32)
    (logits,) = read_mmdet_proposals(write(tmp_path / "a.pkl", [rows]), [1]).objectness_logits
    assert np.isfinite(logits).all()
    assert (np.diff(logits) > 0).all()


@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 5))
def test_round_trip(tmp_path_factory, numbers: list[int], protocol: int) -> None:
    path = tmp_path_factory.mktemp("round_trip") / "a.pkl"
    arrays = make_rows(*numbers)
    expected = read_mmdet_proposals(write(path, arrays, protocol), range(len(arrays)))
    write_proposals(str(path), expected)
    found = read_proposals(str(path))
    assert found.ids == list(range(len(arrays)))
    for rows, boxes, logits, known in zip(
        arrays, found.boxes, found.objectness_logits, expected.objectness_logits, strict=True
    ):
        np.testing.assert_array_equal(boxes, rows[:, :4])
        np.testing.assert_array_equal(logits, known)
        assert boxes.dtype == logits.dtype == np.float32


class Harm:
    """Its pickle makes a folder when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_executes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "evil.pkl", [*make_rows(1), Harm(tmp_path / "harm")])
    for read in (lambda: read_mmdet_proposals(path, [1, 2]), lambda: read_proposals(path)):
        with pytest.raises(
            DataError, match=r"evil.pkl: contains pickled code \('.*mkdir'\).*not run"
        ):
            read()
    assert not (tmp_path / "harm").exists()
    with open(path, "rb") as file:
        pickle.load(file)
    assert (tmp_path / "harm").exists(), "the pickle must be one that does harm"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"boxes": []}, "holds a dict, not a list"),
        (make_rows(1), "holds 1 images, but the dataset has 2"),
        ([make_rows(1)[0], np.zeros((3, 4))], r"image 1 .* the shape \(3, 4\), not \(n, 5\)"),
        ([make_rows(1)[0], [np.zeros((3, 5))]], "image 1 .* has no array"),
        ([make_rows(1)[0], np.full((1, 5), 2.0)], "image 1 .* a score that is not from 0 to 1"),
        ([make_rows(1)[0], np.full((1, 5), np.nan)], "not finite"),
    ],
)
def test_refuses_other_content(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_mmdet_proposals(write(tmp_path / "a.pkl", content), [1, 2])


def test_refuses_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    write_proposals(str(path), Proposals([1], [np.zeros((1, 4))], [np.zeros(1)]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or truncated"):
        read_proposals(str(path))
    with pytest.raises(DataError, match="not a file of proposals"):
        read_proposals(write(path, {"ids": [1]}))
    with pytest.raises(DataError, match="equally long"):
        read_proposals(write(path, {"ids": [1], "boxes": [], "objectness_logits": []}))
