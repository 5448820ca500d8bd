"""The model of each method trains two iterations and infers."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ga_detectron2.engine import GATrainer, load_config
from tests.runs import CONFIGS, GA_LOSSES, NARROW, as_overrides

SIZES = [(64, 96), (96, 64)]
LOSSES = {
    "ga_rpn_R_50": GA_LOSSES,
    "ga_faster_R_50": GA_LOSSES | {"loss_cls", "loss_box_reg"},
    "ga_fast_R_50": {"loss_cls", "loss_box_reg"},
    "ga_retinanet_R_50": {"loss_anchor_loc", "loss_anchor_shape", "loss_cls", "loss_box_reg"},
    # ResNeXt: groups, its stride in the 3x3 convolution, RGB.
    "ga_faster_X_101_32x4d": GA_LOSSES | {"loss_cls", "loss_box_reg"},
}


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


@pytest.mark.parametrize("name", LOSSES)
def test_trains_and_infers(name: str) -> None:
    narrow = {**NARROW, "MODEL.RESNETS.NORM": "FrozenBN", "MODEL.RPN.POST_NMS_TOPK_TEST": 1000}
    narrow["MODEL.GUIDED_ANCHOR.MIN_POSITIVE_IOU"] = 0.0  # every box has a positive anchor
    if "X_101" in name:
        narrow |= {"MODEL.RESNETS.NUM_GROUPS": 4, "MODEL.RESNETS.WIDTH_PER_GROUP": 4}
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), as_overrides(narrow))
    torch.manual_seed(0)
    model = GATrainer.build_model(cfg)
    batch = images()
    optimizer = GATrainer.build_optimizer(cfg, model)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not any("stem" in n or "res2" in n for n in trained)

    model.train()
    for _ in range(2):
        with EventStorage():
            losses = model(batch)
        assert set(losses) == LOSSES[name]
        assert all(torch.isfinite(loss) for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    without_gradient = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    if name.startswith("ga_fast_"):
        # No given proposal is large enough for the coarser levels, which nothing else reads.
        without_gradient = [n for n in without_gradient if "fpn_output" not in n]
    assert not without_gradient

    model.eval()
    with torch.no_grad():
        outputs = model(batch)
    assert len(outputs) == 2
    for image, output in zip(batch, outputs, strict=True):
        size = (image["height"], image["width"])
        (found,) = output.values()
        assert found.image_size == size
        if name.startswith("ga_rpn"):
            assert 0 < len(found) <= 1000
        else:
            assert len(found) <= 100
            assert found.has("pred_classes")
