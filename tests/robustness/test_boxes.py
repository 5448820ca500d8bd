"""Odd boxes and image sizes in models: finite losses, gradients and results, or an error.

Models have the backbone of ``soak.py``.
"""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st

from ga_detectron2.modeling import losses
from ga_detectron2.modeling.anchors import make_cell_grid
from ga_detectron2.modeling.matching import MatchRule, match_anchors
from ga_detectron2.modeling.targets import GroundTruth, pad_ground_truth
from tests.robustness import soak as soak_module
from tests.robustness.examples import EXAMPLES


@pytest.fixture(scope="module")
def soak() -> dict[str, Any]:
    return vars(soak_module)


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
def test_a_hundred_steps_of_the_soak(soak: dict[str, Any], family: str) -> None:
    drawn: Counter = Counter()
    for number in range(100):
        assert soak["run_step"](family, number, drawn) == [], f"step {number}"
    assert drawn["float32"] > 30 < drawn["bfloat16"]
    assert drawn["shape outputs of 1e3 and more"] > 20
    assert all(drawn[kind] > 0 for kind in soak["KINDS"])


@pytest.mark.parametrize(
    ("family", "number"),
    [
        # Each had a NaN in its losses or gradients, and its cause is in a comment of the code.
        ("rpn", 163),
        ("rpn", 592),
        ("rpn", 1642),
        ("retinanet", 173),
        ("retinanet", 1888),
        ("retinanet", 2154),
    ],
)
def test_steps_that_failed_before(soak: dict[str, Any], family: str, number: int) -> None:
    assert soak["run_step"](family, number, Counter()) == []


def test_the_soak_notices(soak: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LOCATION_NORMALIZER", math.nan)
    from ga_detectron2.modeling import guided_anchoring

    monkeypatch.setattr(guided_anchoring, "LOCATION_NORMALIZER", math.nan)
    assert "loss_anchor_loc is nan" in soak["run_step"]("rpn", 0, Counter())


def make_model(soak: dict[str, Any], family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = soak["read_config"](family).clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "PooledImage"
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    return soak["build_model"](cfg)


@pytest.fixture(scope="module")
def models(soak: dict[str, Any]) -> dict[str, torch.nn.Module]:
    return {family: make_model(soak, family) for family in ("rpn", "faster", "retinanet")}


def make_image(size: tuple[int, int], boxes: list) -> dict:
    truth = Instances(
        size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float64).float().reshape(-1, 4)),
        gt_classes=torch.zeros(len(boxes), dtype=torch.int64),
    )
    image = torch.full((3, *size), 90.0)
    return {"image": image, "height": size[0], "width": size[1], "instances": truth}


def step(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    with EventStorage():
        found = model(batch)
    sum(found.values()).backward()
    for name, loss in found.items():
        assert loss.isfinite(), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return found


NUMBERS = st.floats(-200, 200) | st.floats() | st.sampled_from([0.0, 31.5, 64.0, 1e-30, 1e30])


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
@settings(max_examples=EXAMPLES)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    boxes=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=6),
)
def test_any_boxes_in_any_image(
    models: dict[str, torch.nn.Module], family: str, size: tuple[int, int], boxes: list
) -> None:
    step(models[family], [make_image(size, boxes)])


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
@pytest.mark.parametrize(
    "bad",
    [
        [math.nan, 10, 40, 40],
        [math.inf, 10, 40, 40],
        [10, 10, math.inf, 40],
        [10, 10, 10, 40],
        [40, 40, 10, 10],
        [10, 10, 1e30, 1e30],
    ],
    ids=str,
)
def test_a_bad_box_changes_nothing(
    models: dict[str, torch.nn.Module], family: str, bad: list
) -> None:
    """The losses are those without it."""
    good = [8.0, 8.0, 50.0, 40.0]
    found = []
    for boxes in ([good], [good, bad]):
        torch.manual_seed(1)
        found.append(step(models[family], [make_image((64, 64), boxes)]))
    assert found[0]["loss_anchor_loc"] > 0
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name], loss, msg=name)


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
def test_boxes_outside_the_image(models: dict[str, torch.nn.Module], family: str) -> None:
    step(models[family], [make_image((64, 64), [[500, 500, 540, 530], [-90, -90, -20, -10]])])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["rpn", "retinanet"])
def test_ten_thousand_boxes(models: dict[str, torch.nn.Module], family: str) -> None:
    corners = torch.rand(10_000, 2) * 60
    boxes = torch.cat([corners, corners + 1 + torch.rand(10_000, 2) * 30], dim=1)
    step(models[family], [make_image((64, 96), boxes.tolist())])


@pytest.mark.parametrize("family", ["rpn", "faster", "retinanet"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 500)], ids=str)
def test_image_sizes(
    models: dict[str, torch.nn.Module], family: str, size: tuple[int, int]
) -> None:
    model = models[family].eval()
    with torch.no_grad():
        (output,) = model([make_image(size, [])])
    (result,) = output.values()
    boxes = result.get("pred_boxes" if result.has("pred_boxes") else "proposal_boxes").tensor
    assert boxes.isfinite().all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= size[1]).all()
    assert (boxes[:, 3] <= size[0]).all()
    if family != "faster":
        step(models[family], [make_image(size, [[0, 0, size[1], size[0]]])])


def test_boxes_without_bounds_are_not_valid() -> None:
    boxes = Boxes(torch.tensor([[0.0, 0, 9, 9], [0, 0, 1e8, 9], [-math.inf, 0, 9, 9]]))
    truth = pad_ground_truth([Instances((9, 9), gt_boxes=boxes)])
    assert truth.valid.tolist() == [[True, False, False]]
    assert truth.boxes.isfinite().all()


def test_anchors_that_no_box_is_near_have_a_box_number() -> None:
    truth = GroundTruth(
        torch.tensor([[[4.0, 4.0, 40.0, 40.0]]]), torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    )
    corners = torch.rand(1, 500, 2) * 400
    anchors = torch.cat([corners, corners + 20], dim=2)
    rule = MatchRule((0.3, 0.7), (0, -1, 1), 0.3)
    matches = match_anchors(anchors, torch.ones(1, 500).bool(), truth, rule)
    assert (matches.boxes == 0).all()
    truth.take(matches.boxes)


def test_kept_grids_are_bounded_for_ever_new_image_sizes() -> None:
    """Whatever was made before, the last 32 are kept, and their tensors alone."""
    import gc
    import weakref

    cpu, references = torch.device("cpu"), []
    for i in range(200):
        grid = make_cell_grid(((7 + i, 11), (4, 6)), (4, 8), cpu)
        references.append(weakref.ref(grid.centers))
    del grid
    gc.collect()
    kept = make_cell_grid.cache_info()
    assert kept.maxsize == 32 == kept.currsize
    assert [r() is not None for r in references] == [False] * 168 + [True] * 32
