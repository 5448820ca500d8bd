"""GuidedAnchorRPN against the reference head: outputs, targets, losses, gradients, proposals."""

import pytest
import torch

from ga_detectron2.modeling.anchors import cells_inside_images
from ga_detectron2.modeling.matching import match_anchors, match_approximate_anchors
from ga_detectron2.modeling.rpn import GuidedAnchorRPN
from ga_detectron2.modeling.targets import (
    location_targets,
    pad_ground_truth,
)

from .golden import GoldenHead, check_gradients, rpn_config, to_map

LOSSES = {
    "loss_anchor_loc": "loss.loss_anchor_loc",
    "loss_anchor_shape": "loss.loss_anchor_shape",
    "loss_rpn_cls": "loss.loss_rpn_cls",
    "loss_rpn_loc": "loss.loss_rpn_bbox",
}


@pytest.fixture(scope="module", params=["rpn_seed1", "rpn_seed2"])
def golden(request) -> GoldenHead:
    return GoldenHead(request.param)


@pytest.fixture
def rpn(golden) -> GuidedAnchorRPN:
    model = GuidedAnchorRPN(rpn_config(), golden.input_shape(2))
    model.load_state_dict(golden.converted("weight.", "proposal_generator."))
    return model


@pytest.fixture
def guided(golden, rpn):
    features = list(golden.features(2).values())
    hidden, loc, shape = rpn.rpn_head(features)
    sizes = [(x.height, x.width) for x in hidden]
    return rpn.guided_anchoring(sizes, loc, shape), hidden


def per_level(golden, values):
    return values.split(golden.cells_per_level, dim=1)


def test_outputs(golden, rpn, guided):
    guided, hidden = guided
    sizes = [x.shape for x in golden.levels("feature")]
    for key, values in (("loc", guided.loc_logits), ("shape", guided.shape_deltas)):
        for ours, theirs, size in zip(
            per_level(golden, values), golden.levels(f"train.{key}"), sizes, strict=True
        ):
            torch.testing.assert_close(to_map(ours, size), theirs, rtol=1e-4, atol=1e-5)
    for level, deltas, cls, bbox in zip(
        hidden,
        per_level(golden, guided.shape_deltas),
        golden.levels("train.cls"),
        golden.levels("train.bbox"),
        strict=True,
    ):
        adapted = rpn.rpn_head.feature_adaption(level, deltas, rpn.rpn_head.predict_boxes)
        ours = to_map(adapted.rows, cls.shape)
        torch.testing.assert_close(ours[:, :1], cls, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[:, 1:], bbox, rtol=1e-4, atol=1e-5)


def test_guided_anchors_and_cells_inside(golden, guided):
    guided, _ = guided
    inside = per_level(golden, cells_inside_images(guided.grid, golden.image_sizes))
    anchors = per_level(golden, guided.anchors)
    for n in range(golden.num_images):
        for i in range(len(golden.strides)):
            torch.testing.assert_close(
                anchors[i][n], golden[f"guided_anchor.{n}.{i}"], rtol=1e-5, atol=1e-4
            )
            assert torch.equal(inside[i][n], golden[f"inside.{n}.{i}"])


def test_location_targets(golden, guided):
    guided, _ = guided
    targets, weights = location_targets(
        guided.grid, pad_ground_truth(golden.instances()), 8, center_ratio=0.2, ignore_ratio=0.5
    )
    for i, (t, w) in enumerate(
        zip(per_level(golden, targets), per_level(golden, weights), strict=True)
    ):
        assert torch.equal(t, golden[f"loc_target.{i}"].flatten(1).float())
        assert torch.equal(w, golden[f"loc_weight.{i}"].flatten(1))


def test_shape_targets(golden, rpn, guided):
    guided, _ = guided
    ground_truth = pad_ground_truth(golden.instances())
    matches = match_approximate_anchors(
        guided.grid,
        cells_inside_images(guided.grid, golden.image_sizes),
        ground_truth,
        rpn.guided_anchoring.shape_rule,
        8,
        3,
        (0.5, 1.0, 2.0),
    )
    positive = matches.labels == 1
    boxes = torch.where(positive[..., None], ground_truth.take(matches.boxes), 0.0)
    for i, (ours, is_positive) in enumerate(
        zip(per_level(golden, boxes), per_level(golden, positive), strict=True)
    ):
        assert torch.equal(ours, golden[f"shape_gt.{i}"])
        assert torch.equal(is_positive, golden[f"shape_weight.{i}"][..., 0] > 0)


def test_labels(golden, rpn, guided):
    guided, _ = guided
    matches = match_anchors(
        guided.anchors,
        cells_inside_images(guided.grid, golden.image_sizes),
        pad_ground_truth(golden.instances()),
        rpn.box_rule,
    )
    for i, ours in enumerate(per_level(golden, matches.labels)):
        # The reference's classes: 0 object, 1 background; weight 0: takes no part.
        theirs = 1 - golden[f"label.{i}"]
        theirs[golden[f"label_weight.{i}"] == 0] = -1
        assert torch.equal(ours, theirs)


def test_losses_and_gradients(golden, rpn):
    features = golden.features(2)
    _, losses = rpn(golden.images(), features, golden.instances())
    assert set(losses) == set(LOSSES)
    for name, key in LOSSES.items():
        torch.testing.assert_close(losses[name], golden[key], rtol=1e-5, atol=1e-9, msg=name)
    sum(losses.values()).backward()
    check_gradients(golden, rpn, features, prefix="proposal_generator.")


def test_proposals(golden, rpn):
    rpn.eval()
    with torch.no_grad():
        proposals, losses = rpn(golden.images(), golden.features(2))
    assert losses == {}
    for n, ours in enumerate(proposals):
        boxes, scores = golden[f"result.boxes.{n}"], golden[f"result.scores.{n}"]
        assert len(ours) == len(boxes)
        torch.testing.assert_close(ours.objectness_logits.sigmoid(), scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.proposal_boxes.tensor, boxes, rtol=1e-4, atol=1e-2)
