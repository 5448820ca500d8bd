"""What detectron2's own tests ask of a proposal generator and of a dense detector."""

import logging

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model, build_proposal_generator
from detectron2.structures import ImageList, Instances, RotatedBoxes
from detectron2.utils.events import EventStorage

from ga_detectron2.modeling.rpn import GuidedAnchorRPN

from .test_guided_anchoring import make_settings
from .test_models import BOXES, batch_of, build, infer, small_rpn, tiny_config

SIZES = [(90, 120), (96, 128)]


def features_of(height: int, width: int, images: int = 2, channels: int = 8) -> dict:
    return {
        f"p{i}": torch.randn(images, channels, -(-height >> i), -(-width >> i)).double()
        for i in range(2, 7)
    }


def images_of(height: int, width: int, images: int = 2) -> ImageList:
    return ImageList(torch.zeros(images, 3, height, width), [(height, width)] * images)


def ground_truth(images: int = 2) -> list[Instances]:
    return [x["instances"] for x in batch_of([(64, 96)] * images, [[[9, 9, 50, 40]]] * images)]


# -------------------------------------------------------------------------------------- what trains


def test_rpn_logs_the_sampled_anchors_as_detectron2_does():
    rpn = small_rpn().train()
    samples = []
    original = rpn._adapt_sample
    rpn._adapt_sample = lambda *args: samples.append(args[2]) or original(*args)
    with EventStorage() as storage:
        rpn(images_of(64, 96), features_of(64, 96), ground_truth())
    (sample,) = samples
    found = {name: value for name, (value, _) in storage.latest().items()}
    assert found == {
        "rpn/num_pos_anchors": sample.positive.sum().item() / 2,
        "rpn/num_neg_anchors": sample.negative.sum().item() / 2,
    }
    assert found["rpn/num_pos_anchors"] >= 1
    assert sum(found.values()) == 24
    rpn(images_of(64, 96), features_of(64, 96), ground_truth())  # without a storage


def test_retinanet_logs_positive_anchors_and_draws_pictures():
    cfg = tiny_config("retinanet")
    cfg.VIS_PERIOD = 2
    model = build(cfg).train()
    batch = batch_of(SIZES, (BOXES, BOXES[:1]))
    for iteration, pictures in ((0, 1), (1, 0), (2, 1)):
        with EventStorage(iteration) as storage:
            model(batch)
        assert storage.latest()["num_pos_anchors"][0] >= len(BOXES) / 2
        assert [image.shape[::2] for _, image, _ in storage._vis_data] == [(3, 120)] * pictures


# --------------------------------------------------------------------------------- what is proposed


def test_min_size_drops_small_proposals():
    rpn = small_rpn().eval()
    images, features = images_of(64, 96), features_of(64, 96)
    sides = [
        (p.proposal_boxes.tensor[:, 2:] - p.proposal_boxes.tensor[:, :2]).amin(dim=1)
        for p in rpn(images, features)[0]
    ]
    rpn.min_box_size = 12.0
    proposals, _ = rpn(images, features)
    for proposal, all_sides in zip(proposals, sides, strict=True):
        boxes = proposal.proposal_boxes.tensor
        assert ((boxes[:, 2:] - boxes[:, :2]) > 12).all()
        assert len(boxes) > 0
        assert (all_sides <= 12).any()
    cfg = tiny_config("proposals")
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 12
    shapes = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 7)}
    assert build_proposal_generator(cfg, shapes).min_box_size == 12


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_infinite_features_give_finite_proposals_or_an_error_in_training(value):
    rpn = small_rpn()
    features = features_of(64, 96)
    features["p2"][0] = value
    proposals, _ = rpn.eval()(images_of(64, 96), features)
    assert all(p.proposal_boxes.tensor.isfinite().all() for p in proposals)
    assert all(p.objectness_logits.isfinite().all() for p in proposals)
    assert len(proposals[1]) > 0
    rpn.proposals_in_training = True
    with pytest.raises(FloatingPointError, match="diverged"):
        rpn.train()(images_of(64, 96), features, ground_truth())


@pytest.mark.parametrize("kind", ["boxes", "retinanet"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_infinite_images_give_no_instances(kind, value):
    model = build(tiny_config(kind))
    batch = batch_of(SIZES)
    batch[0]["image"] = torch.full((3, *SIZES[0]), value)
    results = infer(model, batch)
    assert [len(r) > 0 for r in results] == [False, True]


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_half_precision(kind):
    """All weights and inputs in bfloat16, as for a model on a GPU by ``model.half()``."""
    model = build(tiny_config(kind)).bfloat16()
    (result,) = infer(model, batch_of(SIZES[:1], (BOXES,)))
    assert len(result) > 0
    assert all(getattr(x, "tensor", x).isfinite().all() for x in result.get_fields().values())


# ----------------------------------------------------------------------------- what cannot be right


def test_maps_that_contradict_the_strides_are_refused():
    rpn = small_rpn()
    features = {
        f"p{i}": torch.randn(1, 8, 256 >> (i + 1), 256 >> (i + 1)).double() for i in range(2, 7)
    }
    with pytest.raises(ValueError, match=r"32x32 cells for images of 256x256 .* stride of 4"):
        rpn.train()(images_of(256, 256, 1), features, ground_truth(1))
    # Backbones round up or down.
    for shift in (0, 1):
        odd = {
            f"p{i}": torch.randn(1, 8, (99 >> i) + shift, (130 >> i) + shift).double()
            for i in range(2, 7)
        }
        rpn.eval()(images_of(99, 130, 1), odd)


def test_retinanet_refuses_maps_that_contradict_the_strides():
    model = build(tiny_config("retinanet"))
    model.guided_anchoring.strides = (4, 8, 16, 32, 64)
    with pytest.raises(ValueError, match="is not a stride of 4"):
        infer(model, batch_of(SIZES))


def test_rotated_boxes_are_refused():
    boxes = RotatedBoxes(torch.tensor([[30.0, 30, 20, 10, 45]]))
    truth = [Instances((64, 96), gt_boxes=boxes, gt_classes=torch.zeros(1).long())] * 2
    with pytest.raises(ValueError, match="rotated boxes are not supported"):
        small_rpn().train()(images_of(64, 96), features_of(64, 96), truth)
    cfg = tiny_config("proposals")
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="rotated boxes are not supported"):
        build_model(cfg)


def test_more_features_than_images_are_refused_and_tridents_subclass_trains():
    """TridentNet's backbone has three branches, of which each gives features of all images."""
    rpn, features = small_rpn().train(), features_of(64, 96, 6)
    with pytest.raises(ValueError, match=r"features of 6 images, 2 images and 2 ground truths"):
        rpn(images_of(64, 96), features, ground_truth())

    class TridentGuidedAnchorRPN(GuidedAnchorRPN):
        def forward(self, images, features, gt_instances=None):
            images = ImageList(torch.cat([images.tensor] * 3), images.image_sizes * 3)
            return super().forward(images, features, gt_instances * 3 if gt_instances else None)

    rpn.__class__ = TridentGuidedAnchorRPN
    _, losses = rpn(images_of(64, 96), features, ground_truth())
    assert all(loss.isfinite() for loss in losses.values())


def test_sizes_without_a_shape_target_are_logged_for_few_levels(caplog):
    with caplog.at_level(logging.WARNING):
        make_settings(strides=(4, 8, 16, 32, 64))
        assert not caplog.records
        make_settings(strides=(16,), base_scale=8)
    # By the nine approximate anchors of 128 to 203 pixels, and an IoU of 0.3.
    assert "smaller than about 70 or larger than about 370 pixels" in caplog.text


@pytest.mark.parametrize("kind", ["boxes", "retinanet"])
def test_trace_by_detectron2s_adapter_serves_other_images(kind):
    """As tools/deploy/export_model.py of detectron2 traces a model."""
    model = build(tiny_config(kind)).eval()

    def inference(model, batch):
        if kind == "boxes":
            return model.inference(batch, do_postprocess=False)
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        features = [features[f] for f in model.head_in_features]
        return model.forward_inference(images, features, model.head(features))

    first, second = ([{"image": x["image"].float()}] for x in batch_of(SIZES))
    adapter = TracingAdapter(model, first, inference)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        for batch in (first, second):
            (found,) = adapter.outputs_schema(traced(batch[0]["image"]))
            (expected,) = inference(model, batch)
            assert len(found) == len(expected) > 10
            torch.testing.assert_close(
                found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2
            )
            torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_scripting_points_to_tracing(kind):
    with pytest.raises(RuntimeError, match=r"cannot be scripted: trace it"):
        torch.jit.script(build(tiny_config(kind)).eval())


# ------------------------------------------------------------------------------------ torch.compile


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "threshold"), [("retinanet", 1.0), ("retinanet", 0.0), ("boxes", 0.01)]
)
def test_compiled_model_gives_the_same(kind, threshold):
    """With no cell, some or all passing the filter, in images of two sizes."""
    model = build(tiny_config(kind)).eval()
    settings = (
        model.guided_anchoring
        if kind == "retinanet"
        else (model.proposal_generator.guided_anchoring)
    )
    settings.loc_filter_thresh = threshold
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for size in SIZES:
            batch = batch_of([size], (BOXES,))
            want, got = (m(batch)[0]["instances"] for m in (model, compiled))
            torch.testing.assert_close(got.pred_boxes.tensor, want.pred_boxes.tensor)
            assert len(want) > 0 or threshold == 1.0
    torch._dynamo.reset()
