"""Odd boxes, image sizes and outputs in models: finite losses, gradients and results."""

import functools
import math
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ga_detectron2.model_zoo import get_config
from ga_detectron2.modeling.losses import BOX_LOSS_TYPES
from tests.modeling.tiny_models import boxes_of, head_of, infer
from tests.robustness.examples import EXAMPLES

FAMILIES = {"rpn": "ga_rpn_R_50", "faster": "ga_faster_R_50", "retinanet": "ga_retinanet_R_50"}
LAST_LAYERS = ("anchor_loc", "objectness_logits", "anchor_deltas", "cls_score", "bbox_pred")


@BACKBONE_REGISTRY.register()
class PooledImage(Backbone):
    """Five levels, each the pooled image through one 1x1 convolution: as cheap as can be."""

    def __init__(self, cfg: CfgNode, _input_shape: ShapeSpec):
        super().__init__()
        first = 3 if cfg.MODEL.META_ARCHITECTURE == "GARetinaNet" else 2
        self.strides = {f"p{i}": 2**i for i in range(first, first + 5)}
        self.layer = nn.Conv2d(3, 8, 1)

    size_divisibility = 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {k: ShapeSpec(channels=8, stride=s) for k, s in self.strides.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = {k: F.avg_pool2d(images, s, ceil_mode=True) for k, s in self.strides.items()}
        return {k: self.layer(x) for k, x in pooled.items()}


def make_model(family: str) -> nn.Module:
    torch.manual_seed(0)
    cfg = get_config(FAMILIES[family])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = PooledImage.__name__
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    return build_model(cfg)


reused_model = functools.cache(make_model)


def make_image(size: tuple[int, int], boxes: list) -> dict[str, Any]:
    truth = Instances(
        size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float64).float().reshape(-1, 4)),
        gt_classes=torch.arange(len(boxes)) % 3,
    )
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 255
    return {"image": image, "height": size[0], "width": size[1], "instances": truth}


def step(model: nn.Module, batch: list[dict]) -> dict[str, Tensor]:
    """Losses, which are finite as their gradients are."""
    model.train()
    model.zero_grad()
    with EventStorage():
        losses = model(batch)
    total = sum(losses.values())
    with torch.autocast("cpu", enabled=False):
        total.backward()
    for name, loss in losses.items():
        assert loss.isfinite(), name
        assert loss > -1e-3, name
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return losses


# Any four numbers; corner and sides of all sizes; corners of cells, so that many cells tie.
ANY = st.floats(-200, 200) | st.floats() | st.sampled_from([0.0, 31.5, 64.0, 1e-30, 1e30])
SIDES = st.floats(-40, 38).map(lambda x: 10**x) | st.floats(0, 128)
BOXES = (
    st.tuples(ANY, ANY, ANY, ANY)
    | st.tuples(st.floats(-20, 130), st.floats(-20, 130), SIDES, SIDES).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )
    | st.tuples(st.integers(0, 8), st.integers(0, 8)).map(
        lambda b: (8 * b[0], 8 * b[1], 8 * b[0] + 32, 8 * b[1] + 32)
    )
)
# Up to ±1e4, from the biases or from the weights.
OUTPUTS = st.floats(-4, 4).map(lambda x: math.copysign(10 ** abs(x), x))


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
@settings(max_examples=2 * EXAMPLES)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 70)), min_size=1, max_size=2),
    boxes=st.lists(BOXES, max_size=8),
    shape=st.tuples(OUTPUTS, OUTPUTS),
    other=OUTPUTS | st.just(0.0),
    std=st.sampled_from([0.01, 1.0, 100.0]),
    loss_type=st.sampled_from(BOX_LOSS_TYPES),
    bfloat16=st.booleans(),
)
def test_losses_gradients_and_results_are_finite(
    family: str,
    sizes: list,
    boxes: list,
    shape: tuple,
    other: float,
    std: float,
    loss_type: str,
    bfloat16: bool,
) -> None:
    model = reused_model(family)
    head = head_of(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("anchor_shape", *LAST_LAYERS):
            if hasattr(head, name):
                layer = getattr(head, name)
                layer.weight.normal_(std=std)
                layer.bias.copy_(torch.tensor(shape) if name == "anchor_shape" else other)
    rpn = getattr(model, "proposal_generator", model)
    rpn.box_reg_loss_type = loss_type
    batch = [make_image(size, boxes[i:]) for i, size in enumerate(sizes)]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        step(model, batch)
        results = infer(model, batch)
    assert all(boxes_of(x).isfinite().all() for x in results)


@pytest.mark.parametrize("family", ["rpn", "retinanet"])
def test_bad_boxes_change_nothing(family: str) -> None:
    """The losses are those without them."""
    good, nan, inf = [8.0, 8.0, 50.0, 40.0], math.nan, math.inf
    bad = [[nan, 10, 40, 40], [inf, 10, 40, 40], [10, 10, inf, 40], [10, 10, 10, 40]]
    bad += [[40, 40, 10, 10], [10, 10, 1e30, 1e30]]
    model, found = make_model(family), []
    for boxes in ([good], [good, *bad]):
        torch.manual_seed(1)
        found.append(step(model, [make_image((64, 64), boxes)]))
    assert found[0]["loss_anchor_loc"] > 0
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name], loss, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 500)], ids=str)
def test_image_sizes(family: str, size: tuple[int, int]) -> None:
    model = make_model(family)
    (result,) = infer(model, [make_image(size, [])])
    boxes = boxes_of(result)
    assert boxes.isfinite().all()
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor(size).flip(0).repeat(2)).all()
    if family != "faster":
        step(model, [make_image(size, [[0, 0, size[1], size[0]]])])
