"""What detectron2's own tests ask of a proposal generator and of a dense detector."""

import pytest
import torch
from detectron2.export import TracingAdapter
from detectron2.structures import ImageList, Instances, RotatedBoxes
from detectron2.utils.events import EventStorage

from ga_detectron2.modeling.rpn import GuidedAnchorRPN

from .tiny_models import (
    BOXES,
    SAME_PADDED_SIZE,
    batch_of,
    boxes_of,
    build,
    infer,
    settings_of,
    small_rpn,
    tiny_config,
    train_step,
)


def features_of(height: int, width: int, images: int = 2) -> dict:
    return {
        f"p{i}": torch.randn(images, 8, -(-height >> i), -(-width >> i)).double()
        for i in range(2, 7)
    }


def images_of(height: int, width: int, images: int = 2) -> ImageList:
    return ImageList(torch.zeros(images, 3, height, width), [(height, width)] * images)


def ground_truth() -> list[Instances]:
    return [x["instances"] for x in batch_of([(64, 96)] * 2, [[[9, 9, 50, 40]]] * 2)]


# -------------------------------------------------------------------------------------- what trains


def test_rpn_logs_the_sampled_anchors():
    rpn = small_rpn().train()
    samples = []
    original = rpn._adapt_sample
    rpn._adapt_sample = lambda *args: samples.append(args[2]) or original(*args)
    with EventStorage(19) as storage:
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


@pytest.mark.parametrize("kind", ["boxes", "retinanet"])
def test_pictures_are_drawn_in_training(kind):
    """Every VIS_PERIOD iterations; RetinaNet logs its positive anchors, too."""
    cfg = tiny_config(kind)
    cfg.VIS_PERIOD = 19
    model = build(cfg).train()
    batch = batch_of(SAME_PADDED_SIZE, (BOXES, BOXES[:1]))
    for iteration in (18, 19):
        with EventStorage(iteration) as storage:
            model(batch)
        assert len(storage._vis_data) == (iteration == 19)
    if kind == "retinanet":
        assert storage.latest()["num_pos_anchors"][0] >= len(BOXES) / 2


# --------------------------------------------------------------------------------- what is proposed


def test_min_size_drops_small_proposals():
    cfg = tiny_config("proposals")
    model = build(cfg)
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 12
    batch = batch_of(SAME_PADDED_SIZE)
    for result, larger in zip(infer(model, batch), infer(build(cfg), batch), strict=True):
        smallest, of_larger = (
            (boxes[:, 2:] - boxes[:, :2]).min() for boxes in map(boxes_of, (result, larger))
        )
        assert smallest < 12 < of_larger


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
def test_infinite_images_give_no_instances(kind):
    batch = batch_of(SAME_PADDED_SIZE * 2, [[]] * 4)
    for i, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        batch[i]["image"] = torch.full((3, 96, 128), value)
    results = infer(build(tiny_config(kind)), batch)
    assert [len(r) > 0 for r in results] == [False, False, False, True]


def test_infinite_boxes_are_no_detections():
    model = build(tiny_config("retinanet"))
    torch.nn.init.constant_(model.head.bbox_pred.bias, torch.inf)
    assert [len(r) for r in infer(model, batch_of(SAME_PADDED_SIZE))] == [0, 0]


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
def test_half_precision(kind):
    """All weights and inputs in bfloat16, as for a model on a GPU by ``model.half()``."""
    model = build(tiny_config(kind)).bfloat16()
    (result,) = infer(model, batch_of(SAME_PADDED_SIZE[:1], (BOXES,)))
    assert len(result) > 0
    assert all(getattr(x, "tensor", x).isfinite().all() for x in result.get_fields().values())


# ----------------------------------------------------------------------------- what cannot be right


@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
@pytest.mark.parametrize("run", [infer, train_step])
def test_maps_that_contradict_the_strides_are_refused(kind, run):
    model = build(tiny_config(kind))
    settings_of(model).strides = (2, 4, 8, 16, 32)
    with pytest.raises(ValueError, match=r"cells for images of 96x128 .* not a stride of 2"):
        run(model, batch_of(SAME_PADDED_SIZE))


def test_maps_of_sides_rounded_up_or_down_are_accepted():
    for shift in (0, 1):
        features = {
            f"p{i}": torch.randn(1, 8, (99 >> i) + shift, (130 >> i) + shift).double()
            for i in range(2, 7)
        }
        small_rpn().eval()(images_of(99, 130, 1), features)


def test_rotated_boxes_and_missing_ground_truth_are_refused():
    rpn = small_rpn().train()
    boxes = RotatedBoxes(torch.tensor([[30.0, 30, 20, 10, 45]]))
    truth = [Instances((64, 96), gt_boxes=boxes, gt_classes=torch.zeros(1).long())] * 2
    with pytest.raises(ValueError, match="rotated boxes are not supported"):
        rpn(images_of(64, 96), features_of(64, 96), truth)
    with pytest.raises(ValueError, match="needs gt_instances in training"):
        rpn(images_of(64, 96), features_of(64, 96))


def test_more_features_than_images_are_refused_and_tridents_subclass_trains():
    """TridentNet's backbone has three branches; each gives features of all images."""
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


# -------------------------------------------------------------------------- tracing, torch.compile


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

    first, second = (
        [{"image": x["image"].float()} for x in batch_of(sizes)]
        for sizes in (SAME_PADDED_SIZE, [(64, 200), (150, 40)])
    )
    adapter = TracingAdapter(model, first, inference)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        for batch in (first, second):
            results = adapter.outputs_schema(traced(*(x["image"] for x in batch)))
            for found, expected in zip(results, inference(model, batch), strict=True):
                assert len(found) == len(expected) > 10
                torch.testing.assert_close(
                    found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2
                )
                torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)


def test_scripting_points_to_tracing():
    with pytest.raises(RuntimeError, match=r"cannot be scripted: trace it"):
        torch.jit.script(small_rpn().eval())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["proposals", "retinanet"])
@torch.no_grad()
def test_compiled_model_gives_the_same(kind):
    """With no cell and some cells passing the filter, in images of two sizes."""
    cfg = tiny_config(kind)
    # Every level and layer of a backbone takes seconds to compile.
    cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.RETINANET.IN_FEATURES = ["p2", "p3"], ["p3", "p4"]
    model = build(cfg).eval()
    model.backbone.forward = torch.compiler.disable(model.backbone.forward)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    for size, threshold in zip(SAME_PADDED_SIZE, (1.0, 0.01), strict=True):
        settings_of(model).loc_filter_thresh = threshold
        batch = batch_of([size], (BOXES,))
        (want,), (got,) = infer(model, batch), infer(compiled, batch)
        torch.testing.assert_close(boxes_of(got), boxes_of(want))
        assert len(want) > 0 or threshold == 1.0
    torch._dynamo.reset()
