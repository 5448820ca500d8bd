"""What plots are made from, and that they refuse what cannot be plotted."""

import json
import pickle

import numpy as np
import pytest
from detectron2.structures import BoxMode

from ga_detectron2.errors import CheckpointError
from ga_detectron2.visualization import (
    BoxShapes,
    RecallCurve,
    plot_box_shapes,
    plot_recall_curves,
    plot_training_curves,
)
from ga_detectron2.visualization.plots import _running_mean
from ga_detectron2.visualization.recall import (
    read_metrics,
    recall_of_metrics,
    recall_of_proposals,
)

WHITE = 255


def colors_in(picture: np.ndarray) -> int:
    """Pixels that are neither white, grey nor black."""
    return int((np.ptp(picture.astype(int), axis=2) > 60).sum())


def write_metrics(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_second_run_into_a_folder_replaces_what_it_repeats(tmp_path) -> None:
    rows = [{"iteration": i, "total_loss": loss} for i, loss in ((19, 3), (39, 2), (59, 1))]
    again = [{"iteration": i, "total_loss": loss} for i, loss in ((39, 5), (59, 4))]
    write_metrics(tmp_path / "metrics.json", [*rows, *again])
    losses = [row["total_loss"] for row in read_metrics(str(tmp_path))]
    assert losses == [3, 5, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "line 1: not JSON"), ('{"lr": 1}', "line 1: it has no 'iteration'"), ("\n", "is empty")],
)
def test_metrics_that_are_none(tmp_path, text, message) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(str(path))


def test_running_mean() -> None:
    values = np.random.default_rng(0).normal(size=40)
    expected = [values[max(0, i - 5) : i + 6].mean() for i in range(40)]
    np.testing.assert_allclose(_running_mean(values), expected)


def test_training_curves_show_the_usual_keys() -> None:
    rows = [
        {"iteration": i, "total_loss": 2 / (i + 1), "loss_cls": 1 / (i + 1), "time": 3, "lr": 0.1}
        for i in range(100)
    ]
    for i, value in ((99, float("nan")), (100, 50.0)):
        rows.append({"iteration": i, "bbox/AP": 30.0, "bbox/AP-bar": 1.0, "bbox/AP50": value})
    picture = plot_training_curves(rows, title="a title with $ and _")
    one = plot_training_curves(rows, keys=["lr"])
    assert picture.shape[1] > 2 * one.shape[1]  # three columns against one
    assert picture.shape[0] > 1.5 * one.shape[0]  # total_loss, loss_cls, lr; AP, AP50
    assert colors_in(picture) > colors_in(one) > 100
    # A score at the end alone is said in words: two rows fewer, a line of text more.
    assert plot_training_curves([*rows[:100], rows[-1]]).shape[0] < picture.shape[0]
    with pytest.raises(ValueError, match="none of loss_box"):
        plot_training_curves(rows, keys=["loss_box"])


def test_recall_of_metrics_is_the_last_of_each() -> None:
    rows = [
        {"iteration": 9, "proposal_recall/AR@100": 10.0, "proposal_recall/AR@10": 5.0},
        {"iteration": 19, "proposal_recall/AR@100": 20.0, "proposal_recall/ARs@100": 1.0}
        | {"box_proposals/AR@100": 99.0},
    ]
    assert recall_of_metrics("GA", rows) == RecallCurve("GA", [10, 100], [5.0, 20.0])
    with pytest.raises(ValueError, match="GA: the metrics hold no recall"):
        recall_of_metrics("GA", rows[:0])


@pytest.mark.parametrize("mode", [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS])
def test_recall_of_proposals(tmp_path, dataset, mode) -> None:
    json_file = dataset.partition("=")[2].rpartition(":")[0]
    # Both boxes of image 0, the second behind a wrong one: one is found by one proposal.
    boxes = np.array([[10, 10, 40, 20], [0, 0, 5, 5], [50, 5, 20, 50]], dtype=np.float32)
    boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, mode)
    content = {
        "boxes": [boxes, boxes[:0]],
        "objectness_logits": [np.array([3.0, 2.0, 1.0], dtype=np.float32), np.zeros(0)],
        "ids": [0, 1],
        "bbox_mode": mode.value,
    }
    path = tmp_path / "box_proposals.pkl"
    path.write_bytes(pickle.dumps(content))
    curve = recall_of_proposals("GA", str(path), json_file, limits=(1, 2, 3))
    assert curve.recall == pytest.approx([50, 50, 100])
    path.write_bytes(pickle.dumps({"boxes": []}))
    with pytest.raises(ValueError, match="not a file of proposals"):
        recall_of_proposals("GA", str(path), json_file)
    path.write_bytes(pickle.dumps({"boxes": print}))
    with pytest.raises(CheckpointError):
        recall_of_proposals("GA", str(path), json_file)


def test_recall_curves() -> None:
    curves = [RecallCurve("RPN", [10, 100], [5, 20]), RecallCurve("GA-RPN", [10, 100], [10, 30])]
    both, one = plot_recall_curves(curves, "title"), plot_recall_curves(curves[:1])
    assert colors_in(both) > 1.5 * colors_in(one) > 0
    for bad in ([], [RecallCurve("RPN", [], [])]):
        with pytest.raises(ValueError, match="one or more"):
            plot_recall_curves(bad)


def test_box_shapes() -> None:
    sizes = np.array([[10.0, 20], [40, 10]])
    part = BoxShapes(sizes, sizes * 1.1, np.array([32.0, 32]), np.ones(2), np.ones(2) / 2)
    both = BoxShapes.join([part, part])
    assert both.truth.shape == (4, 2)
    assert colors_in(plot_box_shapes(both)) > 100
    with pytest.raises(ValueError, match="no objects"):
        plot_box_shapes(BoxShapes(*(x[:0] for x in part)))
