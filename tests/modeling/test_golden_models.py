"""Whole detectors against the reference's: pyramid features and results on one image.

The weights are a function of each tensor's name (``weights_rule.py``), apart from the last layers,
which the reference file holds.
"""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from ga_detectron2 import add_ga_config
from ga_detectron2.checkpoint import convert_mmdet_state_dict

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = PROJECT / "tests" / "reference"

CONFIGS = {
    "ga-rpn_r50-caffe_fpn_1x_coco": "ga_rpn_R_50.yaml",
    "ga-faster-rcnn_r50-caffe_fpn_1x_coco": "ga_faster_R_50.yaml",
    "ga-retinanet_r50-caffe_fpn_1x_coco": "ga_retinanet_R_50.yaml",
}

_spec = importlib.util.spec_from_file_location("weights_rule", REFERENCE / "weights_rule.py")
weights_rule = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights_rule)


def load_reference(name: str):
    """The reference's arrays and our model with the same weights, on one image."""
    with np.load(REFERENCE / "models" / f"{name}.npz") as file:
        arrays = {k: torch.from_numpy(file[k]) for k in file.files}
    shapes_file = PROJECT / "tests" / "checkpoint" / "data" / "state_dicts.json.gz"
    shapes = json.loads(gzip.decompress(shapes_file.read_bytes()))[name]
    seed = int(arrays["seed"])
    weights = {k: weights_rule.tensor_for(k, shape, seed) for k, shape in shapes.items()}
    for key, value in arrays.items():
        if key.startswith("weight."):
            assert key.removeprefix("weight.") in weights
            weights[key.removeprefix("weight.")] = value
    cfg = get_cfg()
    add_ga_config(cfg)
    cfg.merge_from_file(str(PROJECT / "configs" / CONFIGS[name]))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    model.load_state_dict(convert_mmdet_state_dict(weights))
    image = arrays["image"].permute(2, 0, 1)
    return arrays, model, [{"image": image, "height": image.shape[1], "width": image.shape[2]}]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def reference(request):
    return load_reference(request.param)


def run(model, module, inputs):
    """What ``module`` puts out on the way through the model, and what the model does."""
    caught = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    with torch.no_grad():
        results = model(inputs)
    handle.remove()
    return caught[0], results[0]


def test_pyramid_features(reference):
    arrays, model, inputs = reference
    features, _ = run(model, model.backbone, inputs)
    for i, ours in enumerate(features[k] for k in sorted(features)):
        theirs = arrays[f"feature.{i}"]
        error = (ours[0, ::16] - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-4


def test_results(reference):
    arrays, model, inputs = reference
    with torch.no_grad():
        (output,) = model(inputs)
    if "proposals" in output:
        found = output["proposals"]
        boxes, scores = found.proposal_boxes.tensor, found.objectness_logits.sigmoid()
        classes = torch.zeros(len(found), dtype=torch.int64)
    else:
        found = output["instances"]
        boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
    check_same(boxes, scores, classes, arrays["boxes"], arrays["scores"], arrays["classes"])


@pytest.mark.parametrize("reference", ["ga-faster-rcnn_r50-caffe_fpn_1x_coco"], indirect=True)
def test_proposals_of_the_detector(reference):
    arrays, model, inputs = reference
    ((found,), _losses), _ = run(model, model.proposal_generator, inputs)
    boxes, scores = arrays["proposals"], arrays["proposal_scores"]
    none = torch.zeros(len(boxes), dtype=torch.int64)
    check_same(
        found.proposal_boxes.tensor, found.objectness_logits.sigmoid(), none, boxes, scores, none
    )


def check_same(boxes, scores, classes, their_boxes, their_scores, their_classes):
    """The same results, in whatever order those of nearly equal scores come."""
    assert len(boxes) == len(their_boxes)
    torch.testing.assert_close(scores, their_scores, rtol=1e-3, atol=1e-4)
    difference = (boxes[:, None] - their_boxes[None]).abs().amax(dim=2)
    difference = difference + 1e3 * (classes[:, None] != their_classes[None])
    assert difference.amin(dim=0).max() < 0.05
    assert difference.amin(dim=1).max() < 0.05
