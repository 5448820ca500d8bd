"""The wrong targets of the benchmark against a focal loss that takes class numbers."""

import runpy
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ga_detectron2.modeling import guided_anchoring
from ga_detectron2.modeling.anchors import make_cell_grid
from ga_detectron2.modeling.losses import location_loss
from ga_detectron2.modeling.targets import GroundTruth, location_targets

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "upside_down_location.py"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_targets_are_read_as_class_numbers_with_the_background_last(script: dict) -> None:
    grid = make_cell_grid(((16, 16), (8, 8)), (4, 8), torch.device("cpu"))
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 36.0], [30.0, 30.0, 60.0, 62.0]]])
    truth = GroundTruth(boxes, torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2).bool())
    right = location_targets(grid, truth, 8, 0.2, 0.5)
    wrong = script["upside_down_targets"](grid, truth, 8, 0.2, 0.5)
    assert 0 < right.targets.sum() < right.targets.numel() / 2
    logits = torch.randn(right.targets.shape, generator=torch.Generator().manual_seed(0))
    # Of K = 1 classes: class 0 is the object, number K = 1 the background, which has no column.
    one_hot = F.one_hot(right.targets.long(), num_classes=2)[..., 0].float()
    expected = (sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2) * right.weights).sum()
    found = location_loss(logits, wrong.targets, wrong.weights)
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, location_loss(logits, *right))


def test_only_the_training_of_one_variant_is_changed(script: dict) -> None:
    original = guided_anchoring.location_targets
    with script["training_variant"]("right way up"):
        assert guided_anchoring.location_targets is original
    with script["training_variant"]("upside down"):
        assert guided_anchoring.location_targets is script["upside_down_targets"]
    assert guided_anchoring.location_targets is original


def test_table(script: dict) -> None:
    row = {
        "kept_share": 0.5,
        "center_recall": 0.25,
        "center_probability": 0.1,
        "outside_probability": 0.9,
    }
    found = {"diagnosis": {"all": row}, "recall": {"AR@10": 12.0}}
    results = [
        {"variant": variant, "seed": seed, "filters": [found] * 3}
        for variant in script["VARIANTS"]
        for seed in (1, 2)
    ]
    table = script["make_table"](results, [10])
    assert table.count("\n") == 2 + 6
    line = "| upside down | 0.05 | 50.0 ± 0.0 | 25.0 ± 0.0 | 0.100 ± 0.000 | 0.900 ± 0.000 |"
    assert f"{line} 12.0 ± 0.0 |" in table
