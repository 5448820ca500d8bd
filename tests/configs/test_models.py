"""Every config builds its model, which trains two iterations and infers."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ga_detectron2.engine import GATrainer, load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZES = [(64, 96), (96, 64)]
ANCHOR_LOSSES = {"loss_anchor_loc", "loss_anchor_shape"}
LOSSES = {
    "rpn": ANCHOR_LOSSES | {"loss_rpn_cls", "loss_rpn_loc"},
    "faster": ANCHOR_LOSSES | {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"},
    "fast": {"loss_cls", "loss_box_reg"},
    "retinanet": ANCHOR_LOSSES | {"loss_cls", "loss_box_reg"},
}
TWO_STAGE = ["ga_rpn", "ga_faster"]
NAMES = [
    *(f"{m}_R_50" for m in (*TWO_STAGE, "ga_retinanet", "ga_fast")),
    *(
        pytest.param(f"{m}_{b}", marks=pytest.mark.slow)
        for m in (*TWO_STAGE, "ga_retinanet")
        for b in ("R_101", "X_101_32x4d", "X_101_64x4d")
    ),
    pytest.param("ga_retinanet_R_101_2x_ms", marks=pytest.mark.slow),
]


def build(name: str) -> tuple[CfgNode, torch.nn.Module]:
    cfg = load_config(
        str(CONFIGS / f"{name}.yaml"),
        ["MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", "0.001", "MODEL.WEIGHTS", ""],
    )
    torch.manual_seed(0)
    model = GATrainer.build_model(cfg)
    # Without pretrained statistics, frozen batch norm leaves every block's output as large as its
    # input, and a hundred layers of sums overflow.
    for norm in (m for n, m in model.named_modules() if n.endswith("conv3.norm")):
        norm.weight.fill_(0.1)
    return cfg, model


def images() -> list[dict]:
    batch = []
    for i, (h, w) in enumerate(SIZES):
        gt = Instances((h, w))
        gt.gt_boxes = Boxes(torch.tensor([[5.0, 9.0, 5 + w / 2, 9 + h / 2], [30, 20, 50, 60]]))
        gt.gt_classes = torch.tensor([i, 79])
        proposals = Instances((h, w))
        proposals.proposal_boxes = Boxes(gt.gt_boxes.tensor + 3)
        proposals.objectness_logits = torch.tensor([2.0, 1.0])
        batch.append(
            {
                "image": torch.randint(256, (3, h, w), dtype=torch.uint8),
                "height": 2 * h,
                "width": 2 * w,
                "instances": gt,
                "proposals": proposals,
            }
        )
    return batch


@pytest.mark.parametrize("name", NAMES)
def test_builds_trains_and_infers(name: str) -> None:
    cfg, model = build(name)
    batch = images()
    optimizer = GATrainer.build_optimizer(cfg, model)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("backbone.bottom_up.stem", "backbone.bottom_up.res2"))
                   for n in before)  # fmt: skip

    model.train()
    for _ in range(2):
        with EventStorage():
            losses = model(batch)
        assert set(losses) == LOSSES[name.split("_")[1]]
        assert all(torch.isfinite(loss) for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    unchanged = [n for n, p in before.items() if torch.equal(p, after[n])]
    if name.startswith("ga_fast"):
        # No given proposal is large enough for the coarser levels, which nothing else reads.
        unchanged = [n for n in unchanged if "fpn_output" not in n]
    assert not unchanged

    model.eval()
    with torch.no_grad():
        outputs = model(batch)
    assert len(outputs) == 2
    for image, output in zip(batch, outputs, strict=True):
        size = (image["height"], image["width"])
        if name.startswith("ga_rpn"):
            assert output["proposals"].image_size == size
            assert 0 < len(output["proposals"]) <= 1000
        else:
            assert output["instances"].image_size == size
            assert len(output["instances"]) <= 100
            assert output["instances"].has("pred_classes")
