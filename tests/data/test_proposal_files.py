"""Files of proposals: detectron2 reads what is written, and MMDetection's are read or refused."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.build import load_proposals_into_dataset
from detectron2.structures import BoxMode

from ga_detectron2.data.proposal_files import read_mmdet_proposals, read_proposals, write_proposals
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


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_detectron2_reads_mmdetections_proposals(tmp_path: Path, protocol: int) -> None:
    arrays = make_rows(4, 0, 2)
    ids = [30, 10, 20]  # in the order of the JSON; detectron2 sorts them
    proposals = read_mmdet_proposals(write(tmp_path / "in.pkl", arrays, protocol), ids)
    out = str(tmp_path / "out.pkl")
    write_proposals(out, proposals)
    assert sorted(os.listdir(tmp_path)) == ["in.pkl", "out.pkl"]
    records = load_proposals_into_dataset([{"image_id": i} for i in (10, 20, 30)], out)
    for record, rows in zip(records, (arrays[1], arrays[2], arrays[0]), strict=True):
        order = np.argsort(-rows[:, 4])
        assert record["proposal_bbox_mode"] == BoxMode.XYXY_ABS
        np.testing.assert_array_equal(record["proposal_boxes"], rows[order, :4])
        probabilities = 1 / (1 + np.exp(-record["proposal_objectness_logits"].astype(float)))
        np.testing.assert_allclose(probabilities, rows[order, 4], atol=1e-6)
    found = read_proposals(out)
    assert found.ids == ids
    for a, b in zip(found.boxes, arrays, strict=True):
        np.testing.assert_array_equal(a, b[:, :4])
        assert a.dtype == np.float32


def test_certain_scores_stay_finite_and_in_order(tmp_path: Path) -> None:
    rows = np.array([[0, 0, 1, 1, s] for s in (0, 1e-9, 0.5, 1)], dtype=np.float32)
    (logits,) = read_mmdet_proposals(write(tmp_path / "a.pkl", [rows]), [1]).objectness_logits
    assert np.isfinite(logits).all()
    assert (np.diff(logits) > 0).all()


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
