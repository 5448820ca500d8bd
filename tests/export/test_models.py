"""Exported models against their originals, exported once and run at several sizes."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.engine import load_config
from ga_detectron2.export import ExportedModel, compare_results, infer, make_traceable
from ga_detectron2.export.tracing import without_tracer_warnings
from tests.export.models import CONFIGS, FAMILIES, kept_by_level, loc_logits, make_model, noise

PIXELS = 1e-2
SCORE = 1e-4


def check(model: nn.Module, exported: ExportedModel, image: torch.Tensor) -> int:
    """Same results, of which the number is returned."""
    with torch.no_grad():
        (expected,) = infer(model, [{"image": image}])
    found = exported.infer(image)
    assert set(found.get_fields()) == set(expected.get_fields())
    assert found.image_size == expected.image_size == tuple(image.shape[1:])
    differences = compare_results(found, expected)
    assert differences.found == differences.expected
    assert differences.unmatched == 0
    assert differences.box < PIXELS
    assert differences.score < SCORE
    return differences.found


@pytest.mark.parametrize("size", [(96, 128), (33, 200)])
def test_sizes(exported, size):
    _, model, exported = exported
    image = noise(*size, seed=2)
    assert 0 < sum(kept_by_level(model, image)) < len(kept_by_level(model, image))
    assert check(model, exported, image) > 0


def test_no_cell_on_some_levels(exported):
    """An image so pale that the level with the lowest logits keeps no cell, and another does."""
    _, model, exported = exported
    image = noise(70, 90, seed=2)
    # The network has no biases before the branches, so logits above the bias grow with contrast.
    bias = loc_logits(model, no_features(model))[0][0].item()
    limit = math.log(0.01 / 0.99) - bias
    highest = sorted(x.max().item() - bias for x in loc_logits(model, image))
    contrast = limit / (highest[-1] * max(highest[0], limit / 4)) ** 0.5
    image = model.pixel_mean + contrast * (image - model.pixel_mean)
    kept = kept_by_level(model, image)
    assert min(kept) == 0 < max(kept)
    check(model, exported, image)


def test_no_cell_at_all(exported):
    _, model, exported = exported
    image = no_features(model)
    assert not any(kept_by_level(model, image))
    assert check(model, exported, image) == 0


def no_features(model: nn.Module) -> torch.Tensor:
    """An image of 64 x 96 pixels that is zero to the network."""
    return model.pixel_mean.expand(-1, 64, 96).clone()


@pytest.mark.photographs
def test_photographs(exported, shared_folder: Path):
    _, model, exported = exported
    files = sorted((shared_folder / "data" / "coco_tiny" / "val2017").glob("*.jpg"))[:2]
    assert files
    for step, file in zip((3, 4), files, strict=True):
        image = torch.as_tensor(read_image(str(file), "BGR").astype("float32").transpose(2, 0, 1))
        assert check(model, exported, image[:, ::step, ::step]) > 0


def test_dtype(exported):
    """TorchScript takes bytes too, ONNX does not."""
    _, _, exported = exported
    image = noise(48, 64, seed=4)
    if exported.description["format"] == "onnx":
        with pytest.raises(Exception, match="Unexpected input data type"):
            exported.infer(image.byte())
    else:
        differences = compare_results(exported.infer(image.byte()), exported.infer(image))
        assert differences.expected > 0
        assert differences[2:] == (0, 0, 0, 0, 0)


def test_called_as_a_model(exported):
    """For detectron2's evaluation: results in pixels of the image before it was resized."""
    _, model, exported = exported
    inputs = [{"image": noise(64, 80, seed=3), "height": 128, "width": 160}]
    with torch.no_grad():
        (expected,) = model(inputs)
    (found,) = exported(inputs)
    assert list(found) == list(expected)
    (found,), (expected,) = found.values(), expected.values()
    assert found.image_size == (128, 160)
    differences = compare_results(found, expected)
    assert differences.expected > 0
    assert differences.unmatched == 0
    assert differences.box < 2 * PIXELS


def test_description(exported):
    cfg, _, exported = exported
    description = exported.description
    json.dumps(description)
    proposals = {"proposal_boxes", "objectness_logits"}
    detections = {"pred_boxes", "scores", "pred_classes"}
    is_rpn = cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork"
    assert {*description["outputs"]} == (proposals if is_rpn else detections) | {"image_size"}
    assert description["input"]["channels"] == cfg.INPUT.FORMAT


@pytest.mark.parametrize("family", FAMILIES)
def test_original_is_left_as_it_was(family):
    _, model = make_model(family)
    parts = {name: type(x) for name, x in model.named_modules()}
    traceable = make_traceable(model)
    assert {name: type(x) for name, x in model.named_modules()} == parts
    assert not model.training
    pointers = {x.data_ptr() for x in model.parameters()}
    assert {x.data_ptr() for x in traceable.parameters()} == pointers


def test_two_images_at_once():
    """detectron2's adapter takes a list of images of whatever number it is traced with."""
    _, model = make_model("ga_faster")
    inputs = [{"image": noise(64, 96)}, {"image": noise(96, 64, seed=1)}]
    adapter = TracingAdapter(make_traceable(model), inputs, infer).eval()
    with torch.no_grad(), without_tracer_warnings():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        images = [noise(80, 70, seed=2), noise(50, 100, seed=3)]
        found = adapter.outputs_schema(traced(*images))
        expected = infer(model, [{"image": x} for x in images])
    for mine, theirs in zip(found, expected, strict=True):
        differences = compare_results(mine, theirs)
        assert differences.expected > 0
        assert differences.unmatched == 0


def test_other_models_are_refused():
    cfg = load_config(str(CONFIGS / "small" / "rpn_R_18.yaml"), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    with pytest.raises(ValueError, match="training mode"):
        make_traceable(model)
    with pytest.raises(ValueError, match=r"ProposalNetwork cannot be exported: .*, not RPN"):
        make_traceable(model.eval())
