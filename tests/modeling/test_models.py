"""GuidedAnchorRPN within detectron2's models, and GARetinaNet: training, inference, odd batches.

What the numbers should be is shown by the reference files (``test_golden_*.py``) and, for the
parts, by the other tests here.
"""

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn
from torch.nn import functional as F

from ga_detectron2 import record_guided_anchors
from ga_detectron2.modeling.feature_adaption import FeatureAdaption
from ga_detectron2.modeling.retinanet import GARetinaNetHead
from ga_detectron2.modeling.rpn import GuidedAnchorRPN

from .tiny_models import (
    BOXES,
    EVERYTHING,
    SAME_PADDED_SIZE,
    batch_of,
    boxes_of,
    build,
    head_of,
    infer,
    make_image,
    settings_of,
    small_rpn,
    tiny_config,
    train_step,
)

ANCHOR_LOSSES = {"loss_anchor_loc", "loss_anchor_shape"}
RPN_LOSSES = ANCHOR_LOSSES | {"loss_rpn_cls", "loss_rpn_loc"}
BOX_LOSSES = {"loss_cls", "loss_box_reg"}
LOSSES = {
    "proposals": RPN_LOSSES,
    "masks": RPN_LOSSES | BOX_LOSSES | {"loss_mask"},
    "c4": RPN_LOSSES | BOX_LOSSES,
    "retinanet": ANCHOR_LOSSES | BOX_LOSSES,
}


def check_finite(results: list) -> None:
    for result in results:
        for name, value in result.get_fields().items():
            assert getattr(value, "tensor", value).isfinite().all(), name


# ----------------------------------------------------------------------------- kinds and batches


@pytest.mark.parametrize("kind", LOSSES)
def test_trains_and_infers(kind):
    """On images of two sizes, one or both without boxes; everything trainable moves."""
    model = build(tiny_config(kind))
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for boxes in ((BOXES, []), ([], [])):
        batch = batch_of([(90, 120), (70, 100)], boxes)
        losses = train_step(model, batch)
        assert set(losses) == LOSSES[kind]
        assert all(loss.isfinite() for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
        optimizer.step()
    assert losses["loss_anchor_shape"] == 0
    assert not losses.get("loss_rpn_loc", 0)
    after = dict(model.named_parameters())
    assert not [n for n, p in before.items() if torch.equal(p, after[n])]
    results = infer(model, batch)
    assert [r.image_size for r in results] == [(90, 120), (70, 100)]
    check_finite(results)


@pytest.mark.parametrize("kind", ["proposals", "masks", "retinanet"])
def test_a_batch_is_its_images_one_by_one(kind):
    model = build(tiny_config(kind))
    batch = batch_of(SAME_PADDED_SIZE)
    for image, result in zip(batch, infer(model, batch), strict=True):
        (alone,) = infer(model, [image])
        assert len(alone) == len(result) > 10
        assert result.get_fields().keys() == alone.get_fields().keys()
        for name, value in result.get_fields().items():
            value, other = (getattr(x, "tensor", x) for x in (value, alone.get(name)))
            if value.dtype == torch.bool:  # masks, where a pixel may stand at the threshold
                assert (value != other).float().mean() < 1e-4
            else:
                torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-3)
    # A smaller image, padded to the others' size, keeps its results within itself.
    boxes = boxes_of(infer(model, [*batch, make_image((40, 50), [])])[2])
    assert len(boxes) > 0
    assert (boxes.amax(dim=0) <= torch.tensor([50, 40, 50, 40])).all()


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_losses_of_a_batch_are_those_of_its_images(kind):
    """Each loss is a sum over images divided by a sum over images."""
    model = build(tiny_config(kind, sample_everything=True))
    batch = batch_of(SAME_PADDED_SIZE, (BOXES, BOXES[:1]))
    together = train_step(model, batch)
    alone = [train_step(model, [image]) for image in batch]
    # Every image has as many cells; of the other losses the mean lies between the images'.
    mean = (alone[0]["loss_anchor_loc"] + alone[1]["loss_anchor_loc"]) / 2
    torch.testing.assert_close(together["loss_anchor_loc"], mean)
    for name, loss in together.items():
        low, high = sorted(x[name].item() for x in alone)
        assert low - 1e-6 <= loss.item() <= high + 1e-6, name
    for name, loss in train_step(model, [batch[0]] * 2).items():
        torch.testing.assert_close(loss, alone[0][name])


def test_loss_weights():
    weights = {
        "GUIDED_ANCHOR.LOC_LOSS_WEIGHT": 2.0,
        "GUIDED_ANCHOR.SHAPE_LOSS_WEIGHT": 3.0,
        "RPN.LOSS_WEIGHT": 5.0,
        "RPN.BBOX_REG_LOSS_WEIGHT": 7.0,
    }
    cfg = tiny_config("proposals", sample_everything=True)
    plain = train_step(build(cfg), batch_of(SAME_PADDED_SIZE))
    cfg.merge_from_list([x for key, weight in weights.items() for x in (f"MODEL.{key}", weight)])
    weighted = train_step(build(cfg), batch_of(SAME_PADDED_SIZE))
    # In detectron2's RPN, too, the box loss has both weights.
    expected = {"loss_anchor_loc": 2, "loss_anchor_shape": 3, "loss_rpn_cls": 5, "loss_rpn_loc": 35}
    for name, factor in expected.items():
        torch.testing.assert_close(weighted[name], factor * plain[name])


@pytest.mark.parametrize("kind", ["boxes", "retinanet"])
def test_bfloat16_autocast(kind):
    model = build(tiny_config(kind, sample_everything=True))
    batch = batch_of(SAME_PADDED_SIZE)
    expected = train_step(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, batch)
    for name, loss in losses.items():
        assert loss.isfinite()
        if kind != "boxes" or name in RPN_LOSSES:  # the others are sampled
            # Rounding may match another guided anchor with a box, of the few that are matched.
            rel = 0.05 if name in ANCHOR_LOSSES else 0.25
            assert loss.item() == pytest.approx(expected[name].item(), rel=rel, abs=1e-3), name
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    with record_guided_anchors(model) as records:
        infer(model, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = infer(model, batch)
    check_finite(results)
    assert all(len(x) > 0 for x in results)
    exact, rounded = records
    assert rounded.anchors.dtype == torch.float32
    for name in ("loc_logits", "shape_deltas"):
        a, b = getattr(exact, name), getattr(rounded, name).float()
        assert (a - b).norm() < 0.05 * a.norm(), name


# ------------------------------------------------------------------------- the location filter


@contextlib.contextmanager
def no_location(model: nn.Module, image=slice(None), cells=slice(None)) -> Iterator[None]:
    """Context in which the location logits of some images and cells are -100."""

    def lower(_module, inputs):
        sizes, logits, *others = inputs
        logits = logits.clone()
        logits[image, cells] = -100
        return (sizes, logits, *others)

    handle = settings_of(model).register_forward_pre_hook(lower)
    yield
    handle.remove()


@pytest.mark.parametrize("kind", ["proposals", "masks", "keypoints", "cascade", "c4", "retinanet"])
def test_no_location_left_in_one_image_or_in_all(kind):
    model = build(tiny_config(kind))
    batch = batch_of(SAME_PADDED_SIZE)
    before = infer(model, batch)
    assert len(before[0]) > 0
    with no_location(model, image=0):
        results = infer(model, batch)
    assert len(results[0]) == 0
    assert results[0].get_fields().keys() == before[0].get_fields().keys()
    assert len(results[1]) == len(before[1])
    with no_location(model):
        assert [len(x) for x in infer(model, batch)] == [0, 0]


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_no_location_left_on_a_level(kind):
    """The other levels' results are the same as before."""
    model = build(tiny_config(kind))
    if kind == "proposals":
        model.proposal_generator.post_nms_topk = {True: EVERYTHING, False: EVERYTHING}
    else:
        # Suppression across levels would bring others up.
        model.test_nms_thresh, model.max_detections_per_image = 1.0, EVERYTHING
    batch = batch_of(SAME_PADDED_SIZE)
    with record_guided_anchors(model) as records:
        before = infer(model, batch)
    start = 0
    for level in records[0].loc_probability_maps():
        cells = level[0].numel()
        with no_location(model, cells=slice(start, start + cells)):
            results = infer(model, batch)
        start += cells
        for n in range(2):
            old, new = boxes_of(before[n]), boxes_of(results[n])
            assert (len(new) < len(old)) == (level[n] >= 0.01).any()
            found = (new[:, None] - old[None]).abs().amax(dim=2) < 1e-3
            assert found.any(dim=1).all()


def test_proposals_in_training_come_from_all_cells():
    """They are those of inference with a filter that lets everything pass."""
    cfg = tiny_config("boxes")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 200
    model = build(cfg)
    rpn = model.proposal_generator
    batch = batch_of(SAME_PADDED_SIZE)
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    with no_location(model):
        proposals, _ = rpn.train()(images, features, [x["instances"] for x in batch])
    rpn.guided_anchoring.loc_filter_thresh = 0.0
    expected, _ = rpn.eval()(images, features)
    close = {"rtol": 1e-4, "atol": 1e-3}
    for ours, theirs in zip(proposals, expected, strict=True):
        assert len(ours) == len(theirs) > 100
        torch.testing.assert_close(boxes_of(ours), boxes_of(theirs), **close)
        torch.testing.assert_close(ours.objectness_logits, theirs.objectness_logits, **close)
        assert not boxes_of(ours).requires_grad


def test_a_proposal_network_trains_without_adapting_all_cells(monkeypatch):
    def refuse(*_args):
        raise AssertionError("all cells are adapted, for nothing")

    monkeypatch.setattr(FeatureAdaption, "forward", refuse)
    cfg = tiny_config("proposals")
    sum(train_step(build(cfg), batch_of(SAME_PADDED_SIZE)).values()).backward()
    assert build(tiny_config("boxes")).proposal_generator.proposals_in_training is True


# ------------------------------------------------------------------------- some cells against all


def dense_adaption(rpn, hidden, guided):
    """Adapted features of every cell of all levels, (N, R, C), by torchvision's operation."""
    adaption = rpn.rpn_head.feature_adaption
    levels = []
    for level, deltas in zip(hidden, guided.grid.split_levels(guided.shape_deltas), strict=True):
        offsets = F.conv2d(deltas.detach().permute(0, 3, 1, 2), adaption.offset.weight)
        output = torchvision.ops.deform_conv2d(
            level.to_map(), offsets, adaption.conv.weight, padding=1
        )
        levels.append(F.relu(output).flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=1)


def test_gradients_by_sampled_cells_are_those_by_all_cells(monkeypatch):
    """Losses and gradients of weights and features, on five levels and two images."""
    rpn = small_rpn(BATCH_SIZE_PER_IMAGE=16)
    features = {
        f"p{i}": torch.randn(2, 8, -(-64 >> i), -(-96 >> i), dtype=torch.float64).requires_grad_()
        for i in range(2, 7)
    }
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 61)])
    ground_truth = [x["instances"] for x in batch_of(images.image_sizes, ([[9, 9, 50, 40]], []))]
    inputs = [*rpn.parameters(), *features.values()]

    def losses_and_gradients():
        torch.manual_seed(6)  # the same sample
        _, losses = rpn.train()(images, features, ground_truth)
        gradients = torch.autograd.grad(sum(losses.values()), inputs, allow_unused=True)
        return losses, gradients

    sampled = losses_and_gradients()
    calls = []

    def dense(self, hidden, guided, sample):
        calls.append(sample)
        return sample.take(dense_adaption(self, hidden, guided))

    monkeypatch.setattr(GuidedAnchorRPN, "_adapt_sample", dense)
    everywhere = losses_and_gradients()
    assert [sample.cells.shape for sample in calls] == [(2, 24)]
    for name, loss in sampled[0].items():
        torch.testing.assert_close(loss, everywhere[0][name])
    for ours, theirs in zip(sampled[1], everywhere[1], strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert all(g.any() for g in sampled[1][: len(list(rpn.parameters()))])


def test_retinanet_at_cells_is_retinanet_everywhere(monkeypatch):
    model = build(tiny_config("retinanet"))
    batch = batch_of(SAME_PADDED_SIZE)
    at_cells = infer(model, batch)

    def everywhere(adaption, conv, features, shape_deltas, cells):
        every_cell = GARetinaNetHead._everywhere(adaption, conv, features, shape_deltas)
        return every_cell.flatten(0, 1)[cells.cells]

    monkeypatch.setattr(GARetinaNetHead, "_at_cells", staticmethod(everywhere))
    for ours, theirs in zip(at_cells, infer(model, batch), strict=True):
        assert len(ours) == 100
        torch.testing.assert_close(boxes_of(ours), boxes_of(theirs), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------- records


@pytest.mark.parametrize("kind", ["boxes", "retinanet"])
@pytest.mark.parametrize("run", [train_step, infer])
def test_record_guided_anchors(kind, run):
    """Records of every batch, from one pass through backbone and head each."""
    model = build(tiny_config(kind))
    calls = []
    for module in (model.backbone, head_of(model)):
        module.register_forward_hook(lambda m, _i, output: calls.append((m, output)))
    batch = batch_of([(90, 120), (70, 100)])
    with contextlib.suppress(KeyError), record_guided_anchors(model) as records:
        run(model, batch)
        run(model, batch[:1])
        raise KeyError  # after which nothing is recorded either
    assert [m for m, _ in calls] == [model.backbone, head_of(model)] * 2
    names = model.head_in_features if kind == "retinanet" else model.proposal_generator.in_features
    for n, record, (_, features) in zip((2, 1), records, calls[::2], strict=True):
        maps = record.loc_probability_maps()
        assert [x.shape for x in maps] == [(n, *features[f].shape[-2:]) for f in names]
        assert all(((x >= 0) & (x <= 1)).all() for x in maps)
        cells = sum(x[0].numel() for x in maps)
        assert record.anchors.shape == (n, cells, 4)
        assert record.shape_deltas.shape == (n, cells, 2)
        assert not record.anchors.requires_grad
        centers = (record.anchors[..., :2] + record.anchors[..., 2:]) / 2
        torch.testing.assert_close(centers, record.grid.centers.expand(n, -1, -1))
    run(model, batch)
    assert len(records) == 2


def test_a_model_without_guided_anchors_has_nothing_to_record():
    model = build_model(tiny_config("proposals")).backbone
    with pytest.raises(ValueError, match=r"FPN has no guided anchors.*GuidedAnchorRPN"):
        record_guided_anchors(model).__enter__()
