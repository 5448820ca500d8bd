"""The diagnosis of guided anchors on maps whose numbers are known, and by loops over everything."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from torch import nn
from torchvision.ops import box_iou

from ga_detectron2 import record_guided_anchors
from ga_detectron2.evaluation.diagnosis import (
    GuidedAnchorDiagnosis,
    format_diagnosis,
    judge_location_branch,
)
from ga_detectron2.modeling.guided_anchoring import GuidedAnchoring
from ga_detectron2.modeling.matching import MatchRule

NAME = "diagnosis_test"
STRIDES = (8, 16)  # squares of 32 and 64 pixels
SIZES = [(8, 12), (4, 6)]  # of an image of 64 x 96 pixels
CELLS = 8 * 12 + 4 * 6


class Maps(nn.Module):
    """A model whose location and shape maps are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        rule = MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
        self.anchoring = GuidedAnchoring(strides=STRIDES, base_scale=4, shape_rule=rule)

    def forward(self, loc_logits: torch.Tensor, shape_deltas: torch.Tensor) -> None:
        self.anchoring(SIZES, loc_logits, shape_deltas)


@pytest.fixture
def run() -> Iterator[Callable]:
    """Diagnose a batch: images as (height, width, original height, original width, annotations)."""

    def run(images: list[tuple], loc_logits: torch.Tensor, shape_deltas: torch.Tensor) -> dict:
        records = [{"image_id": i, "annotations": x[4]} for i, x in enumerate(images)]
        DatasetCatalog.register(NAME, lambda: records)
        inputs = [
            {"image": torch.zeros(3, h, w), "height": oh, "width": ow, "image_id": i}
            for i, (h, w, oh, ow, _) in enumerate(images)
        ]
        model = Maps()
        with record_guided_anchors(model) as recorded:
            diagnosis = GuidedAnchorDiagnosis(NAME, model, recorded)
            model(loc_logits, shape_deltas)
            diagnosis.process(inputs, None)
        assert recorded == []
        return diagnosis.evaluate()["guided_anchors"]

    yield run
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)


def annotation(box: list, crowd: int = 0) -> dict:
    x1, y1, x2, y2 = box
    return {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": crowd,
        "category_id": 0,
    }


# In the image as the model sees it, half the size: 32 to 64 and 16 to 48, the size of a square of
# the first level, on its cell in row 4, column 6.
BOX = [64, 32, 128, 96]
CENTER = 4 * 12 + 6


def half_width() -> torch.Tensor:
    """Shape outputs by which every anchor has half its square's width."""
    deltas = torch.zeros(1, CELLS, 2)
    deltas[..., 0] = math.log(0.5)
    return deltas


@pytest.mark.parametrize(("cell", "recall", "iou"), [(CENTER, 1, 0.5), (0, 0, 0)])
def test_numbers_by_hand(run: Callable, cell: int, recall: int, iou: float) -> None:
    logits = torch.full((1, CELLS), -10.0)
    logits[0, cell] = 5
    image = (64, 96, 128, 192, [annotation(BOX), annotation([0, 0, 9, 9], crowd=1)])
    result = run([image], logits, half_width())
    fine, coarse = result["levels"]
    assert result["images"] == 1
    assert result["filter"] == 0.01
    assert (fine["stride"], fine["cells"], fine["objects"]) == (8, 96, 1)
    assert (coarse["stride"], coarse["cells"], coarse["objects"]) == (16, 24, 0)
    assert fine["kept_share"] == 1 / 96
    assert result["all"]["kept_share"] == 1 / 120
    assert fine["center_recall"] == recall
    assert fine["iou_square"] == pytest.approx(1)
    assert fine["iou_approximate"] == pytest.approx(1)
    assert fine["iou_guided"] == pytest.approx(0.5)
    assert fine["iou_kept"] == pytest.approx(iou)
    high, low = 1 / (1 + math.exp(-5)), 1 / (1 + math.exp(10))
    assert fine["center_probability"] == pytest.approx(high if cell == CENTER else low)
    if cell == CENTER:
        assert fine["outside_probability"] == pytest.approx(low)
    assert coarse["center_recall"] is coarse["iou_guided"] is None


def test_padding_does_not_count(run: Callable) -> None:
    images = [(64, 96, 64, 96, []), (32, 40, 32, 40, [])]
    result = run(images, torch.full((2, CELLS), 9.0), torch.zeros(2, CELLS, 2))
    assert [level["cells"] for level in result["levels"]] == [96 + 4 * 5, 24 + 2 * 3]
    assert result["all"]["kept_share"] == 1
    assert result["all"]["objects"] == 0
    assert "cannot be judged" in judge_location_branch(result)


def test_against_loops(run: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(12, 2, generator=generator) * torch.tensor([70.0, 40.0])
    sides = 4 + torch.rand(12, 2, generator=generator) * torch.tensor([26.0, 20.0])
    boxes = torch.cat([corners, corners + sides], dim=1)
    logits = torch.randn(1, CELLS, generator=generator) * 4 - 4
    deltas = torch.randn(1, CELLS, 2, generator=generator) * 0.5
    annotations = [annotation(box) for box in boxes.tolist()]
    result = run([(64, 96, 64, 96, annotations)], logits, deltas)["all"]

    squares, approximate, guided, kept = [], [], [], []
    centers = []
    for (height, width), stride in zip(SIZES, STRIDES, strict=True):
        for row in range(height):
            for column in range(width):
                x, y, i = column * stride, row * stride, len(squares)
                centers.append((stride, row, column, i))
                side = 4 * stride

                def box(w: float, h: float, x: float = x, y: float = y) -> list[float]:
                    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]

                squares.append(box(side, side))
                for octave in range(3):
                    for ratio in (0.5, 1, 2):
                        s = side * 2 ** (octave / 3)
                        approximate.append(box(s / ratio**0.5, s * ratio**0.5))
                dw, dh = deltas[0, i].tolist()
                guided.append(box(side * math.exp(dw), side * math.exp(dh)))
                if 1 / (1 + math.exp(-logits[0, i].item())) >= 0.01:
                    kept.append(i)

    def best(anchors: list) -> float:
        return box_iou(boxes, torch.tensor(anchors)).max(dim=1).values.mean().item()

    assert result["iou_square"] == pytest.approx(best(squares), abs=1e-5)
    assert result["iou_approximate"] == pytest.approx(best(approximate), abs=1e-5)
    assert result["iou_guided"] == pytest.approx(best(guided), abs=1e-5)
    assert result["iou_kept"] == pytest.approx(best([guided[i] for i in kept]), abs=1e-5)
    assert result["kept_share"] == len(kept) / CELLS

    found = 0
    for x1, y1, x2, y2 in boxes.tolist():
        # All boxes are smaller than halfway (in octaves) between the squares of 32 and 64.
        assert math.sqrt((x2 - x1) * (y2 - y1)) < 45
        distance = {
            i: math.hypot(column * 8 - (x1 + x2) / 2, row * 8 - (y1 + y2) / 2)
            for stride, row, column, i in centers
            if stride == 8
        }
        found += min(distance, key=distance.__getitem__) in kept
    assert 0 < found < len(boxes)
    assert result["center_recall"] == found / len(boxes)


def test_inverted_location_branch_is_reported(run: Callable) -> None:
    logits = torch.full((1, CELLS), 4.0)
    logits[0, CENTER] = -6
    image = (64, 96, 128, 192, [annotation(BOX)])
    result = run([image], logits, half_width())
    assert "INVERTED" in format_diagnosis(result)
    assert result["all"]["kept_share"] == 119 / 120
    assert result["all"]["center_recall"] == 0
    DatasetCatalog.remove(NAME)
    result = run([image], -logits, half_width())
    assert "location branch is correct" in format_diagnosis(result)
    assert "| stride 8 | 96 |" in format_diagnosis(result)


def test_model_without_guided_anchors_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="has no guided anchors"),
        record_guided_anchors(nn.Identity()),
    ):
        pass
