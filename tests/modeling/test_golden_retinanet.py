"""GARetinaNet against the reference head: outputs, targets, losses, gradients, detections."""

import pytest
import torch
from torch import nn

from ga_detectron2.modeling.matching import match_anchors, match_approximate_anchors
from ga_detectron2.modeling.retinanet import GARetinaNet
from ga_detectron2.modeling.targets import (
    location_targets,
    pad_ground_truth,
)

from .golden import GoldenHead, check_gradients, retinanet_config, to_map

LOSSES = {
    "loss_anchor_loc": "loss.loss_loc",
    "loss_anchor_shape": "loss.loss_shape",
    "loss_cls": "loss.loss_cls",
    "loss_box_reg": "loss.loss_bbox",
}


class NoBackbone(nn.Module):
    """Stands for a backbone whose features the reference file already has."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def output_shape(self):
        return self.shape


@pytest.fixture(scope="module", params=["retinanet_seed1", "retinanet_seed2"])
def golden(request) -> GoldenHead:
    return GoldenHead(request.param)


@pytest.fixture
def model(golden, monkeypatch) -> GARetinaNet:
    monkeypatch.setattr(
        "ga_detectron2.modeling.retinanet.build_backbone",
        lambda cfg: NoBackbone(golden.input_shape(3)),
    )
    num_classes = golden["train.cls.0"].shape[1]
    model = GARetinaNet(retinanet_config(num_classes))
    weights = golden.converted("weight.", "head.")
    model.head.load_state_dict(weights)
    return model


@pytest.fixture
def predictions(golden, model):
    return model.head(list(golden.features(3).values()))


def test_outputs(golden, model, predictions):
    def check(ours, key):
        for x, theirs in zip(ours, golden.levels(key), strict=True):
            torch.testing.assert_close(to_map(x, theirs.shape), theirs, rtol=1e-4, atol=1e-4)

    split = golden.cells_per_level
    deltas = predictions.shape_deltas.split(split, dim=1)
    check(predictions.loc_logits.split(split, dim=1), "train.loc")
    check(deltas, "train.shape")
    classes = map(model.head.classify, predictions.cls_features, deltas)
    boxes = map(model.head.regress, predictions.bbox_features, deltas)
    check(list(classes), "train.cls")
    check(list(boxes), "train.bbox")


def test_targets(golden, model, predictions):
    guided = model._guide(predictions)
    ground_truth = pad_ground_truth(golden.instances())
    inside = model.guided_anchoring.cells_inside(guided, golden.image_sizes)
    split = golden.cells_per_level
    targets, weights = location_targets(guided.grid, ground_truth, 4, 0.2, 0.5)
    shape = match_approximate_anchors(
        guided.grid, inside, ground_truth, model.guided_anchoring.shape_rule, 4, 3, (0.5, 1.0, 2.0)
    )
    box = match_anchors(guided.anchors, inside, ground_truth, model.box_rule)
    shape_boxes = torch.where(
        (shape.labels == 1)[..., None], ground_truth.take(shape.boxes), 0.0
    ).split(split, dim=1)
    classes = torch.where(
        box.labels == 1, ground_truth.take_classes(box.boxes), model.num_classes
    ).split(split, dim=1)
    targets, weights = targets.split(split, dim=1), weights.split(split, dim=1)
    taking_part = (box.labels >= 0).split(split, dim=1)
    for i in range(len(split)):
        assert torch.equal(targets[i], golden[f"loc_target.{i}"].flatten(1).float())
        assert torch.equal(weights[i], golden[f"loc_weight.{i}"].flatten(1))
        assert torch.equal(shape_boxes[i], golden[f"shape_gt.{i}"])
        counts = golden[f"label_weight.{i}"] > 0
        assert torch.equal(taking_part[i], counts)
        assert torch.equal(classes[i][counts], golden[f"label.{i}"][counts])


def test_losses_and_gradients(golden, model):
    features = golden.features(3)
    maps = list(features.values())
    losses = model.forward_training(golden.images(), maps, model.head(maps), golden.instances())
    assert set(losses) == set(LOSSES)
    for name, key in LOSSES.items():
        torch.testing.assert_close(losses[name], golden[key], rtol=1e-5, atol=1e-9, msg=name)
    sum(losses.values()).backward()
    check_gradients(golden, model.head, features, prefix="head.")


def test_detections(golden, model):
    model.eval()
    maps = golden.levels("feature")
    with torch.no_grad():
        results = model.forward_inference(golden.images(), maps, model.head(maps))
    for n, ours in enumerate(results):
        boxes, scores, classes = (
            golden[f"result.{key}.{n}"] for key in ("boxes", "scores", "classes")
        )
        assert len(ours) == len(boxes)
        torch.testing.assert_close(ours.scores, scores, rtol=1e-4, atol=1e-5)
        # Scores that are equal may come in another order.
        distance = (ours.pred_boxes.tensor[:, None] - boxes[None]).abs().amax(dim=2)
        distance = distance + 1e3 * (ours.pred_classes[:, None] != classes[None])
        assert distance.amin(dim=0).max() < 1e-2
        assert distance.amin(dim=1).max() < 1e-2
