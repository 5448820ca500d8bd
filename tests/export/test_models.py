"""Exported models against their originals, exported once and run at several sizes."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.export import TracingAdapter
from detectron2.modeling import build_model
from torch import nn

from ga_detectron2.engine import load_config
from ga_detectron2.export import ExportedModel, compare_results, infer, make_traceable
from tests.export.models import CONFIGS, kept_by_level, make_model, noise

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


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (150, 77), (33, 200)])
def test_sizes(exported, size):
    _, model, exported = exported
    image = noise(*size, seed=2)
    kept = kept_by_level(model, image)
    assert 0 < sum(kept) < len(kept)
    assert check(model, exported, image) > 0


def test_no_cell_on_some_levels(exported):
    _, model, exported = exported
    candidates = [noise(size, size, seed=2) for size in (32, 64, 96)]
    for size in (40, 80, 120):
        image = mean_color(model, 256, 256)
        image[:, :size, :size] = noise(size, size)
        candidates.append(image)
    some = [
        x for x in candidates if min(kept_by_level(model, x)) == 0 < max(kept_by_level(model, x))
    ]
    image = some[0]
    check(model, exported, image)


def test_no_cell_at_all(exported):
    _, model, exported = exported
    image = mean_color(model, 64, 96)
    assert kept_by_level(model, image) == [0] * 5
    assert check(model, exported, image) == 0


def mean_color(model: nn.Module, height: int, width: int) -> torch.Tensor:
    """An image that is zero to the network, which has no biases before the branches."""
    return model.pixel_mean.expand(-1, height, width).clone()


@pytest.mark.photographs
def test_photographs(exported, shared_folder: Path):
    _, model, exported = exported
    files = sorted((shared_folder / "data" / "coco_tiny" / "val2017").glob("*.jpg"))[:2]
    assert files
    for i, file in enumerate(files):
        image = torch.as_tensor(read_image(str(file), "BGR").astype("float32").transpose(2, 0, 1))
        assert check(model, exported, image[:, :: i + 2, :: i + 2]) > 0


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


def test_original_is_left_as_it_was(built):
    _, model = built
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
    with torch.no_grad():
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
    with pytest.raises(ValueError, match="inference mode"):
        make_traceable(model)
    with pytest.raises(ValueError, match=r"ProposalNetwork cannot be exported: .*, not RPN"):
        make_traceable(model.eval())
